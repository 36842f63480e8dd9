"""Evaluation of a profile's two models: the base, which sees one view, and Monkey, which sees tiles."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from monkeylib import resources, tables
from monkeylib.digests import json_digest
from monkeylib.evaluation import results, score_tables
from monkeylib.evaluation.predict import PredictionRun, predict_synthetic
from monkeylib.experiments.variants import variant_profile
from monkeylib.profiles import Profile, build, load_profile
from monkeylib.training import finetune

MODELS = ("base", "monkey")
_SHORT = resources.COMMITTED_PROFILE  # trains as the shipped Monkey's profile does, in fewer steps


def train_models(profile: Profile) -> dict[str, Path]:
    """Return the checkpoints `base` and `monkey`.

    Monkey is the shipped one where it is the profile's (`shipped_monkey`). Otherwise it is trained here,
    unless notebook 05 has done so.
    """
    monkey = shipped_monkey(profile)
    if monkey is None:
        # Returns at once if this training has ended before.
        monkey = finetune.run(profile, profile.runs / "monkey", if_changed="replace")
    return {"base": base_checkpoint(profile), "monkey": monkey}


def shipped_monkey(profile: Profile) -> Path | None:
    """Return the shipped Monkey where it is the one to evaluate for a profile, None elsewhere.

    It is that of the profile which trains it, and stands for that of `nano`, which is the same but for a
    shorter training. A setting or a seed other than the library's asks for a model of its own.
    """
    is_its_own = profile in [load_profile(name) for name in (_SHORT, resources.SHIPPED_MONKEY)]
    folder = resources.shipped_monkey()
    return folder if is_its_own and resources.is_model(folder) else None


def base_checkpoint(profile: Profile) -> Path:
    """Return the checkpoint that the profile's training starts from.

    A profile that starts from random weights (`smoke`) gets an untrained model of one view, written once, so
    that there is something to compare with.
    """
    if profile.base_checkpoint:
        return resources.REPOSITORY / profile.base_checkpoint

    # Other settings have another one, and a folder of that name is whole.
    one_view = variant_profile(profile, "one_view")
    processor = build.build_processor(one_view)
    settings = build.build_config(one_view, processor.tokenizer).to_dict()
    folder = profile.runs / f"untrained-{json_digest(settings)[:8]}"
    if not folder.exists():
        torch.manual_seed(0)  # the same untrained model each time
        # Another process may write the same in the meantime.
        with contextlib.suppress(FileExistsError), resources.create_folder(folder) as temporary:
            build.build_model(one_view, processor).save_pretrained(temporary)
            processor.save_pretrained(temporary)

    return folder


def predict_models(profile: Profile, progress: bool = False) -> dict[tuple[str, str], PredictionRun]:
    """Answer the questions that the profile's models haven't answered yet.

    Returns:
        The run of each (model, benchmark).
    """
    counts = profile.evaluation.counts

    runs = {}
    for model, checkpoint in train_models(profile).items():
        folder = _folder(profile) / model
        for split, run in predict_synthetic(profile, checkpoint, folder, counts, progress).items():
            runs[model, split] = run

    return runs


def evaluate(profile: Profile, progress: bool = False) -> Path:
    """Predict and score the profile's models.

    Writes two tables of the profile's results: `evaluation.csv`, all scores, also by family, and
    `benchmarks.csv`, the main scores beside the paper's.

    Returns:
        The path of `evaluation.csv`.

    Raises:
        ValueError: this process writes the results of another seed.
    """
    seed = profile.training.seed
    if seed != resources.seed():
        raise ValueError(
            f"the profile's seed is {seed}, and results are written as those of seed {resources.seed()}: "
            f"call `resources.use_seed({seed})` first"
        )

    predictions = {key: run.path for key, run in predict_models(profile, progress).items()}
    rows = results.score_runs(predictions, by="family")
    path = results.write_table(rows, resources.results(profile.name) / "evaluation.csv")

    # Read back, so that the second table follows from the first as it is on disk.
    beside_paper = score_tables.paper_table(tables.read_csv(path))
    tables.write_table(beside_paper, score_tables.PAPER_TABLE, profile.name)
    return path


def prediction_files(profile: Profile) -> dict[tuple[str, str], Path]:
    """Return the predictions files of the profile's models by (model, split), as `evaluate` leaves them."""
    return {
        (model, f"nano-{split}"): _folder(profile) / model / f"nano-{split}.jsonl"
        for model in MODELS
        for split in profile.evaluation.counts
    }


def model_titles(profile: Profile) -> dict[str, str]:
    """Return the names of the models for readers: with the side in pixels of the image that each sees."""
    return {"base": f"base at {profile.tile_size} px", "monkey": f"Monkey at {profile.image_size[0]} px"}


def _folder(profile: Profile) -> Path:
    return profile.runs / "evaluation"
