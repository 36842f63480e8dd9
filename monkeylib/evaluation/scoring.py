"""From predictions on disk to scores with their intervals, as often as wanted."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from monkeylib import paths
from monkeylib.evaluation import metrics
from monkeylib.evaluation.benchmarks import BENCHMARKS
from monkeylib.evaluation.examples import Prediction, read_predictions
from monkeylib.evaluation.statistics import Interval, bootstrap_totals, mean

ALL = "all"

Predictions = Path | str | Sequence[Prediction]


@dataclass(frozen=True)
class Score:
    """A metric over a corpus with its 95 % bootstrap interval over `n` examples."""

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


@dataclass(frozen=True)
class _Measured:
    """What a metric's score over a corpus, or over a part of it, is made of."""

    metric: metrics.Metric
    table: np.ndarray  # [examples, columns]
    images: list[str]
    strata: list[str] | None

    def part(self, chosen: Sequence[int]) -> "_Measured":
        """Those examples alone."""
        strata = None if self.strata is None else [self.strata[row] for row in chosen]
        return _Measured(self.metric, self.table[chosen], [self.images[row] for row in chosen], strata)

    def interval(self, seed: int, other: np.ndarray | None = None) -> Interval:
        """The score, or how far it is above that of another run, whose table is `other`."""
        return bootstrap_totals(
            self.table,
            self.metric.totals.combine if self.metric.totals else mean,
            other=other,
            clusters=self.images,
            strata=self.strata,
            seed=seed,
        )


def _measure(rows: Sequence[Prediction], name: str) -> _Measured:
    metric = metrics.get(name)
    predictions, answers = [row.prediction for row in rows], [row.answers for row in rows]
    metas, images = [row.meta for row in rows], [row.image for row in rows]
    if metric.totals is None:
        scores = metric.scores(predictions, answers, metas)
        return _Measured(metric, np.stack([scores, np.ones_like(scores)], axis=1), images, None)
    stratum = metric.totals.stratum
    table = metric.totals.table(predictions, answers, metas, images)
    return _Measured(metric, table, images, stratum and [str(meta[stratum]) for meta in metas])


def scores_by_id(predictions: Predictions, metric: str) -> dict[str, float]:
    """The metric of every example: their mean is the corpus' score, but for F1 and MME."""
    rows = _rows(predictions)
    values = metrics.get(metric).scores(
        [row.prediction for row in rows], [row.answers for row in rows], [row.meta for row in rows]
    )
    return dict(zip((row.id for row in rows), values.tolist(), strict=True))


def score(predictions: Predictions, metric: str, *, seed: int = 0) -> Score:
    """Score predictions; the interval draws images, since the questions of an image aren't independent.

    Args:
        predictions: a predictions file, or what `read_predictions` gave.
        metric: a name of `metrics.METRICS`.
        seed: of the bootstrap.
    """
    return Score(metric, *_measure(_rows(predictions), metric).interval(seed))


def compare(first: Predictions, second: Predictions, metric: str, *, seed: int = 0) -> Interval:
    """How far `first` is above `second` on the same examples; they differ where the interval leaves 0 out.

    Raises:
        ValueError: the runs don't hold the same examples.
    """
    ours, theirs = ({row.id: row for row in _rows(run)} for run in (first, second))
    if ours.keys() != theirs.keys():
        odd = sorted(ours.keys() ^ theirs.keys())
        raise ValueError(
            "Two runs can only be compared on the same examples: "
            f"{len(odd)} ids are in one alone, such as {odd[0]!r}."
        )
    ids = sorted(ours)
    measured = _measure([ours[id] for id in ids], metric)
    return measured.interval(seed, _measure([theirs[id] for id in ids], metric).table)


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
        measured = {metric: _measure(everything, metric) for metric in metrics_of[split]}
        for group, members in _groups(everything, by).items():
            for metric in metrics_of[split]:
                interval = measured[metric].part(members).interval(seed)
                rows.append(Row(model, split, group, metric, *interval))
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


def _groups(rows: Sequence[Prediction], by: str | None) -> dict[str, list[int]]:
    """Numbers of the rows of every group, and of all."""
    groups = {ALL: list(range(len(rows)))}
    for number, row in enumerate(rows if by else ()):
        groups.setdefault(str(row.meta.get(by, "unknown")), []).append(number)
    return groups
