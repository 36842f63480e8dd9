"""Score the models of a profile on the nano world's test splits."""

from __future__ import annotations

from pathlib import Path

import torch

from monkeylib import paths, tables
from monkeylib.evaluation import paper, scoring
from monkeylib.evaluation.nano import predict
from monkeylib.evaluation.runner import Answered
from monkeylib.experiments.variants import variant
from monkeylib.profiles import Profile
from monkeylib.training import finetune

MODELS = ("base", "monkey")


def checkpoints(profile: Profile) -> dict[str, Path]:
    """The profile's models by name: `base`, and `monkey`, which is trained here if notebook 05 hasn't yet."""
    return {"base": base(profile), "monkey": finetune.run(profile, paths.runs(profile.name) / "monkey")}


def base(profile: Profile) -> Path:
    """The model that the profile starts from. One that starts at random (`smoke`) gets an untrained base, so
    that the series compares there too."""
    named = profile.base_checkpoint
    return paths.REPOSITORY / named if named else _untrained(profile, paths.runs(profile.name) / "untrained")


def _untrained(profile: Profile, folder: Path) -> Path:
    """A model of one view of the profile's sizes with random weights, written once."""
    if not (folder / "config.json").exists():
        one_view = variant(profile, "one_view")
        processor = finetune.build_processor(one_view)
        torch.manual_seed(0)
        finetune.build_model(one_view, processor).save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder


def answer(profile: Profile, progress: bool = False) -> dict[tuple[str, str], Answered]:
    """Ask the profile's models what they haven't answered yet, by model and benchmark."""
    answered = {}
    for name, model in checkpoints(profile).items():
        folder = paths.runs(profile.name) / "evaluation" / name
        for split, done in predict(profile, model, folder, profile.evaluation.counts, progress).items():
            answered[name, split] = done
    return answered


def run(profile: Profile, progress: bool = False) -> Path:
    """Predict and score the profile's models.

    Returns:
        The table `evaluation.csv` of its results, by family too; beside it lies `benchmarks.csv`, the main
        scores beside the paper's figures.
    """
    predictions = {asked: done.path for asked, done in answer(profile, progress).items()}
    rows = scoring.summarise(predictions, by="family")
    table = scoring.write_table(rows, paths.results(profile.name) / "evaluation.csv")
    tables.write(paper.table(tables.read_file(table)), paper.TABLE, profile.name)
    return table
