"""From predictions on disk to scores with their intervals, as often as wanted."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from monkeylib import paths
from monkeylib.evaluation import metrics
from monkeylib.evaluation.benchmarks import BENCHMARKS
from monkeylib.evaluation.examples import Prediction, read_predictions
from monkeylib.evaluation.statistics import Interval, bootstrap_interval, paired_difference

ALL = "all"

Predictions = Path | str | Sequence[Prediction]


@dataclass(frozen=True)
class Score:
    """The mean of a metric with its 95 % bootstrap interval over `n` examples."""

    metric: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Row:
    """A line of a result table: the score of one model on one split, or on one `group` of it."""

    model: str
    split: str
    group: str
    metric: str
    value: float
    low: float
    high: float
    n: int


def scores_by_id(predictions: Predictions, metric: str) -> dict[str, float]:
    """The metric of every example."""
    rows = _rows(predictions)
    values = metrics.get(metric).scores([row.prediction for row in rows], [row.answers for row in rows])
    return dict(zip((row.id for row in rows), values.tolist(), strict=True))


def score(predictions: Predictions, metric: str, *, seed: int = 0) -> Score:
    """Score predictions; the interval draws images, since the questions of an image aren't independent.

    Args:
        predictions: a predictions file, or what `read_predictions` gave.
        metric: a name of `metrics.METRICS`.
        seed: of the bootstrap.
    """
    rows = _rows(predictions)
    return _mean(rows, metric, scores_by_id(rows, metric), seed)


def _mean(rows: Sequence[Prediction], metric: str, values: Mapping[str, float], seed: int) -> Score:
    clusters = [row.image for row in rows]
    return Score(metric, *bootstrap_interval([values[row.id] for row in rows], clusters=clusters, seed=seed))


def compare(first: Predictions, second: Predictions, metric: str, *, seed: int = 0) -> Interval:
    """Mean of `first - second` over the same examples: the runs differ where the interval leaves 0 out."""
    ours, theirs = _rows(first), _rows(second)
    return paired_difference(
        scores_by_id(ours, metric),
        scores_by_id(theirs, metric),
        clusters={row.id: row.image for row in ours},
        seed=seed,
    )


def summarise(
    runs: Mapping[tuple[str, str], Predictions],
    metrics_of: Mapping[str, Sequence[str]] | None = None,
    *,
    by: str | None = None,
    seed: int = 0,
) -> list[Row]:
    """Rows of a result table, in the order of the runs.

    Args:
        runs: predictions of each (model, split).
        metrics_of: names of the metrics of each split; by default a split is a benchmark, with its metrics.
        by: also score every group of examples with the same value of this entry of `meta` ("family").
        seed: of the bootstrap.

    Raises:
        ValueError: a split without metrics.
    """
    if metrics_of is None:
        metrics_of = {name: entry.metrics for name, entry in BENCHMARKS.items()}
    rows = []
    for (model, split), predictions in runs.items():
        if split not in metrics_of:
            raise ValueError(
                f"No metrics are given for the split {split!r}: expected {', '.join(metrics_of)}."
            )
        everything = _rows(predictions)
        # CIDEr weighs words by their rarity in the whole split, of which a group is only a part.
        values = {metric: scores_by_id(everything, metric) for metric in metrics_of[split]}
        for group, members in _groups(everything, by).items():
            for metric in metrics_of[split]:
                row = asdict(_mean(members, metric, values[metric], seed))
                rows.append(Row(model, split, group, **row))
    return rows


def write_table(rows: Sequence[Row], path: Path | str) -> Path:
    """Write rows as CSV, in one move."""
    path = Path(path)
    with paths.replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(Row.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    return path


def _rows(predictions: Predictions) -> Sequence[Prediction]:
    rows = read_predictions(predictions) if isinstance(predictions, Path | str) else predictions
    if not rows:
        raise ValueError("There is nothing to score: got no predictions.")
    return rows


def _groups(rows: Sequence[Prediction], by: str | None) -> dict[str, list[Prediction]]:
    groups = {ALL: list(rows)}
    for row in rows if by else ():
        groups.setdefault(str(row.meta.get(by, "unknown")), []).append(row)
    return groups
