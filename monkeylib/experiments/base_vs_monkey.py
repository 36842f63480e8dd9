"""Differences between models on the same questions, and sentences that say what the numbers show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from monkeylib import resources, tables
from monkeylib.evaluation import benchmarks, results
from monkeylib.evaluation.metrics import registry
from monkeylib.evaluation.predict import PredictionRun, predict_synthetic
from monkeylib.experiments.variants import VARIANTS, variant
from monkeylib.profiles import Profile
from monkeylib.tables import Row, Value
from monkeylib.training import finetune

MODELS = ("base", "monkey")


def checkpoints(profile: Profile) -> dict[str, Path]:
    """The profile's models by name: `base`, and `monkey`, which is trained here if notebook 05 hasn't yet."""
    return {"base": base(profile), "monkey": finetune.run(profile, resources.runs(profile.name) / "monkey")}


def base(profile: Profile) -> Path:
    """The model that the profile starts from. One that starts at random (`smoke`) gets an untrained base, so
    that the series compares there too."""
    named = profile.base_checkpoint
    return (
        resources.REPOSITORY / named
        if named
        else _untrained(profile, resources.runs(profile.name) / "untrained")
    )


def _untrained(profile: Profile, folder: Path) -> Path:
    """A model of one view of the profile's sizes with random weights, written once."""
    if not (folder / "config.json").exists():
        one_view = variant(profile, "one_view")
        processor = finetune.build_processor(one_view)
        torch.manual_seed(0)
        finetune.build_model(one_view, processor).save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder


def answer(profile: Profile, progress: bool = False) -> dict[tuple[str, str], PredictionRun]:
    """Ask the profile's models what they haven't answered yet, by model and benchmark."""
    answered = {}
    for name, model in checkpoints(profile).items():
        folder = resources.runs(profile.name) / "evaluation" / name
        for split, done in predict_synthetic(
            profile, model, folder, profile.evaluation.counts, progress
        ).items():
            answered[name, split] = done
    return answered


def run(profile: Profile, progress: bool = False) -> Path:
    """Predict and score the profile's models.

    Returns:
        The table `evaluation.csv` of its results, by family too; beside it lies `benchmarks.csv`, the main
        scores beside the paper's figures.
    """
    predictions = {asked: done.path for asked, done in answer(profile, progress).items()}
    rows = results.score_runs(predictions, by="family")
    table = results.write_table(rows, resources.results(profile.name) / "evaluation.csv")
    tables.write_table(results.paper_table(tables.read_csv(table)), results.PAPER_TABLE, profile.name)
    return table


METRICS = {name: metric.title for name, metric in registry.METRICS.items()}  # what to call them
NOT_SHOWN = "no difference shown"
Files = Mapping[tuple[str, str], Path]


def evaluation_files(profile: Profile) -> Files:
    """Predictions of the profile's models by (model, split), as `evaluation.run` leaves them."""
    folder = resources.runs(profile.name) / "evaluation"
    return {
        (model, f"nano-{split}"): folder / model / f"nano-{split}.jsonl"
        for model in MODELS
        for split in profile.evaluation.counts
    }


def ablation_files(profile: Profile) -> Files:
    """Predictions of the variants by (variant, split), as `ablation.run` leaves them."""
    folder = resources.runs(profile.name) / "ablation"
    return {
        (variant, f"nano-{split}"): folder / variant / "predictions" / f"nano-{split}.jsonl"
        for variant in VARIANTS
        for split in profile.ablation.counts
    }


def model_names(profile: Profile) -> dict[str, str]:
    """What to call the profile's models: by the side of the images that they see."""
    return {"base": f"base at {profile.tile_size} px", "monkey": f"Monkey at {profile.image_size[0]} px"}


def main_metric(split: str) -> str:
    """The metric by which a split is judged."""
    return benchmarks.get(split).metrics[0]


def main_rows(rows: Sequence[Row], group: str | None = results.ALL) -> list[Row]:
    """Those rows of a score table that hold a split's main metric, of one group (None: of every one)."""
    return [
        row
        for row in rows
        if row["metric"] == main_metric(str(row["split"])) and group in (None, row["group"])
    ]


def by_group(rows: Sequence[Row]) -> list[dict[str, Value]]:
    """Main scores of every group of every split, one row each, with a column of points for each model."""
    found: dict[tuple[Value, Value], dict[str, Value]] = {}
    for row in main_rows(rows, group=None):
        line = found.setdefault(
            (row["split"], row["group"]), {key: row[key] for key in ("split", "group", "n")}
        )
        value, low, high = (100 * float(row[key] or 0) for key in ("value", "low", "high"))
        line[str(row["model"])] = f"{value:.1f} ({low:.1f}–{high:.1f})"
    return list(found.values())


def differences(files: Files, model: str, others: Sequence[str]) -> list[dict[str, Value]]:
    """How far `model` is above each other one, on every split, question by question.

    Returns:
        Rows `model`, `against`, `split`, `metric`, `difference` with its 95 % interval `low` to `high`, and
        the number `n` of questions.
    """
    rows: list[dict[str, Value]] = []
    for other in others:
        for split in (split for name, split in files if name == model):
            metric = main_metric(split)
            found = results.compare(files[model, split], files[other, split], metric)
            rows.append(
                {"model": model, "against": other, "split": split, "metric": metric}
                | {"difference": found.value, "low": found.low, "high": found.high, "n": found.n}
            )
    return rows


def verdict(row: Row) -> str:
    """What the interval of a row of `differences` allows to say of its model: `better`, `worse` or `no
    difference shown`."""
    low, high = (float(row[key] or 0) for key in ("low", "high"))
    return "better" if low > 0 else "worse" if high < 0 else NOT_SHOWN


def verdicts(rows: Sequence[Row], names: Mapping[str, str] | None = None) -> list[dict[str, Value]]:
    """The verdicts of `differences`: a row for each model that was compared `against`, a column for each
    split.

    Args:
        rows: the rows of `differences`, of one model.
        names: what to call the others.
    """
    found: dict[str, dict[str, Value]] = {}
    for row in rows:
        other = (names or {}).get(str(row["against"]), str(row["against"]))
        found.setdefault(other, {"against": other})[benchmarks.get(str(row["split"])).title] = verdict(row)
    return list(found.values())


def sentence(row: Row, names: Mapping[str, str] | None = None) -> str:
    """One row of `differences` in words, with what its interval allows to say.

    Args:
        row: the row.
        names: what to call the models.
    """
    names = names or {}
    model, other = (names.get(str(row[key]), str(row[key])) for key in ("model", "against"))
    points, low, high = (100 * float(row[key] or 0) for key in ("difference", "low", "high"))
    order = "above" if points > 0 else "below" if points < 0 else "level with"
    shown = f"{abs(points):.1f} points {order}" if points else order
    reading = f"0 lies within: {NOT_SHOWN}" if verdict(row) == NOT_SHOWN else "the interval leaves out 0"
    what = f"{benchmarks.get(str(row['split'])).title}, {METRICS[str(row['metric'])]}"
    return f"{what}: {model} is {shown} {other} ({low:+.1f} to {high:+.1f}; {reading})."
