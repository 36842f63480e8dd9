"""Differences between models on the same questions, and sentences that say what the numbers show."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from monkeylib import paths
from monkeylib.evaluation import benchmarks, scoring
from monkeylib.experiments import evaluation
from monkeylib.experiments.variants import VARIANTS
from monkeylib.profiles import Profile
from monkeylib.tables import Row, Value

Files = Mapping[tuple[str, str], Path]


def evaluation_files(profile: Profile) -> Files:
    """Predictions of the profile's models by (model, split), as `evaluation.run` leaves them."""
    folder = paths.runs(profile.name) / "evaluation"
    return {
        (model, f"nano-{split}"): folder / model / f"nano-{split}.jsonl"
        for model in evaluation.checkpoints(profile)
        for split in profile.evaluation.counts
    }


def ablation_files(profile: Profile) -> Files:
    """Predictions of the variants by (variant, split), as `ablation.run` leaves them."""
    folder = paths.runs(profile.name) / "ablation"
    return {
        (variant, f"nano-{split}"): folder / variant / "predictions" / f"nano-{split}.jsonl"
        for variant in VARIANTS
        for split in profile.ablation.counts
    }


def main_metric(split: str) -> str:
    """The metric by which a split is judged."""
    return benchmarks.get(split).metrics[0]


def main_rows(rows: Sequence[Row], group: str | None = scoring.ALL) -> list[Row]:
    """Those rows of a score table that hold a split's main metric, of one group (None: of every one)."""
    return [
        row
        for row in rows
        if row["metric"] == main_metric(str(row["split"])) and group in (None, row["group"])
    ]


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
            found = scoring.compare(files[model, split], files[other, split], metric)
            rows.append(
                {"model": model, "against": other, "split": split, "metric": metric}
                | {"difference": found.value, "low": found.low, "high": found.high, "n": found.n}
            )
    return rows


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
    metric = str(row["metric"]).replace("_", " ")
    reading = "the interval leaves out 0" if low > 0 or high < 0 else "the interval holds 0: no difference shown"
    title = benchmarks.get(str(row["split"])).title
    return f"{title}, {metric}: {model} is {shown} {other} ({low:+.1f} to {high:+.1f}; {reading})."
