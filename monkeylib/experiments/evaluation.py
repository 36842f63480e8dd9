"""Score checkpoints on the nano world's test splits: predictions first, scores from the predictions."""

from __future__ import annotations

from pathlib import Path

import torch

from monkeylib import inference, paths
from monkeylib.evaluation import benchmarks, runner, scoring
from monkeylib.experiments.variants import variant
from monkeylib.profiles import Profile
from monkeylib.training import finetune


def predict(
    profile: Profile, model: Path, folder: Path, counts: dict[str, int], progress: bool = False
) -> dict[str, Path]:
    """Predictions of a checkpoint, one JSONL file per split; what is there already is not asked again.

    Args:
        model: folder of the checkpoint.
        folder: where the predictions go.
        counts: how many questions of each split (`fine`, `large`, `general`, `caption`).
    """
    monkey = inference.load(model)
    done = {}
    for split, count in counts.items():
        entry = benchmarks.get(f"nano-{split}")
        done[entry.name] = runner.predict(
            monkey,
            entry.load(count),
            folder / f"{entry.name}.jsonl",
            batch_size=profile.evaluation.batch_size,
            max_new_tokens=min(entry.max_new_tokens, profile.evaluation.max_new_tokens),
            progress=progress,
            stale="replace",
        )
    return done


def checkpoints(profile: Profile) -> dict[str, Path]:
    """The profile's models by name: `base`, and `monkey`, trained by notebook 05.

    A profile that starts at random (`smoke`) gets an untrained base, so that the series compares there too.
    """
    runs = paths.runs(profile.name)
    named = profile.base_checkpoint
    base = paths.REPOSITORY / named if named else _untrained(profile, runs / "untrained")
    return {"base": base, "monkey": runs / "monkey" / "model"}


def _untrained(profile: Profile, folder: Path) -> Path:
    """A model of one view of the profile's sizes with random weights, written once."""
    if not (folder / "config.json").exists():
        one_view = variant(profile, "one_view")
        processor = finetune.build_processor(one_view)
        torch.manual_seed(0)
        finetune.build_model(one_view, processor).save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder


def run(profile: Profile, progress: bool = False) -> Path:
    """Predict and score the profile's models; returns the table `evaluation.csv` of its results, by family
    too."""
    predictions = {}
    for name, model in checkpoints(profile).items():
        folder = paths.runs(profile.name) / "evaluation" / name
        for split, path in predict(profile, model, folder, profile.evaluation.counts, progress).items():
            predictions[name, split] = path
    rows = scoring.summarise(predictions, by="family")
    return scoring.write_table(rows, paths.results(profile.name) / "evaluation.csv")
