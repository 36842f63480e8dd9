"""Scores of predictions with their intervals.

Predictions are scored from their files, so that a score can be computed again, or by another metric, without
a model:

    score_runs({("Monkey", "textvqa"): "run/textvqa.jsonl"})   a table of scores, also of groups of examples
    compare(first, second, "anls")                             the difference of two runs on the same examples

`prediction_folders` scores all files of a folder, and `score_tables` makes tables for readers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from monkeylib.evaluation.benchmarks import BENCHMARKS
from monkeylib.evaluation.examples import Prediction
from monkeylib.evaluation.foreign_predictions import NO_PREDICTION, read_any_predictions
from monkeylib.evaluation.metrics import registry
from monkeylib.evaluation.metrics.text import Meta
from monkeylib.evaluation.statistics import (
    Interval,
    bootstrap_interval,
    difference_interval,
    mean,
    mean_interval,
)
from monkeylib.tables import write_csv

ALL = "all"  # the group of all examples of a split
_MAX_GROUPS = 200

Predictions = Path | str | Sequence[Prediction]


@dataclass(frozen=True)
class ScoreRow:
    """A row of a score table: the score of a model on a split, or on a `group` of its examples.

    Attributes:
        value, low, high: the score, and its 95 % interval.
        n: number of examples.
        failed: those that could not be answered, which count as wrong; see `evaluation.predict`.
        missing: those for which a file of predictions has none, which count as wrong.
        empty: those whose answer is empty.
        cut: those whose answer reached the maximum length before its end.
    """

    model: str
    split: str
    group: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    failed: int = 0
    missing: int = 0
    empty: int = 0
    cut: int = 0


# Columns that a table may leave out.
COUNT_COLUMNS = ("failed", "missing", "empty", "cut")


# --- scores of one run --------------------------------------------------------------------------------------


def scores_by_id(predictions: Predictions, metric: str) -> dict[str, float]:
    """Return the score of every example by its id; except for F1 and MME, their mean is the corpus score."""
    rows = _load(predictions)
    ids = [row.id for row in rows]
    texts, answers, metas = zip(*((row.prediction, row.answers, row.meta) for row in rows), strict=True)

    scores = registry.get(metric).scores(texts, answers, metas)
    return dict(zip(ids, scores.tolist(), strict=True))


def compare(first: Predictions, second: Predictions, metric: str, *, seed: int = 0) -> Interval:
    """Return the paired difference `first - second` of two runs on the same examples, with its 95 % interval.

    The runs differ where the interval doesn't include 0.

    Raises:
        ValueError: the runs don't hold the same examples.
    """
    first_rows = {row.id: row for row in _load(first)}
    second_rows = {row.id: row for row in _load(second)}
    if first_rows.keys() != second_rows.keys():
        # Ids of only one of the runs.
        unpaired = sorted(first_rows.keys() ^ second_rows.keys())
        raise ValueError(
            "Two runs can only be compared on the same examples: "
            f"{len(unpaired)} ids are in one alone, such as {unpaired[0]!r}."
        )

    # The same order for both, so that row i of both tables is the same example.
    ids = sorted(first_rows)
    first_counts = _count([first_rows[id] for id in ids], metric)
    second_counts = _count([second_rows[id] for id in ids], metric)
    return first_counts.interval(seed, second_counts.counts)


@dataclass(frozen=True)
class _CorpusCounts:
    """Counts from which the score of a corpus, or of a part of it, is computed.

    Attributes:
        metric: the metric.
        counts: counts of each example, to be summed, `[examples, columns]`.
        images: the image of each example.
        strata: the stratum of each example; None if the metric has none.
    """

    metric: registry.Metric
    counts: np.ndarray
    images: list[str]
    strata: list[str] | None

    def covers(self, indices: Sequence[int]) -> bool:
        """Return whether some of the examples count in this metric; a sum over tasks has only its tasks."""
        tasks = self.metric.corpus_score.strata if self.metric.corpus_score else ()
        return not tasks or any(self.strata[index] in tasks for index in indices)

    def select(self, indices: Sequence[int]) -> "_CorpusCounts":
        """Return the counts of some of the examples."""
        images = [self.images[index] for index in indices]
        strata = None if self.strata is None else [self.strata[index] for index in indices]
        return _CorpusCounts(self.metric, self.counts[indices], images, strata)

    def interval(self, seed: int, other_counts: np.ndarray | None = None) -> Interval:
        """Return the score, or its difference to that of another run, with its 95 % interval."""
        corpus_score = self.metric.corpus_score
        if corpus_score is None and self.metric.is_share:
            # Counts are [score, 1] for each example.
            if other_counts is None:
                return mean_interval(self.counts[:, 0], clusters=self.images)
            return difference_interval(self.counts[:, 0] - other_counts[:, 0], clusters=self.images)

        return bootstrap_interval(
            self.counts,
            corpus_score.combine if corpus_score else mean,
            other_counts=other_counts,
            clusters=self.images,
            strata=self.strata,
            maximum=self._maximum(),
            seed=seed,
        )

    def _maximum(self) -> float:
        """Return the highest score that the corpus could have."""
        corpus_score = self.metric.corpus_score
        if corpus_score is None:
            return self.metric.maximum
        if self.strata is None:
            return corpus_score.maximum
        return corpus_score.maximum * len(set(self.strata) & set(corpus_score.strata))


def _count(rows: Sequence[Prediction], name: str) -> _CorpusCounts:
    """Return the counts from which a metric's score over the predictions is computed."""
    metric = registry.get(name)
    predictions = [row.prediction for row in rows]
    answers = [row.answers for row in rows]
    metas = [row.meta for row in rows]
    images = [row.image for row in rows]

    # The mean is computed from the sums of the scores and of the examples.
    if metric.corpus_score is None:
        scores = metric.scores(predictions, answers, metas)
        return _CorpusCounts(metric, np.stack([scores, np.ones_like(scores)], axis=1), images, None)

    counts = metric.corpus_score.count(predictions, answers, metas, images)
    strata = [str(meta[metric.stratum]) for meta in metas] if metric.stratum else None
    return _CorpusCounts(metric, counts, images, strata)


def _load(predictions: Predictions) -> Sequence[Prediction]:
    """Return predictions, which may be those of any tool."""
    rows = read_any_predictions(Path(predictions)) if isinstance(predictions, Path | str) else predictions
    if not rows:
        raise ValueError("There is nothing to score: got no predictions.")
    return rows


# --- score tables of many runs ------------------------------------------------------------------------------


def score_runs(
    runs: Mapping[tuple[str, str], Predictions],
    metrics_of: Mapping[str, Sequence[str]] | None = None,
    *,
    by: str | None = None,
    seed: int = 0,
) -> list[ScoreRow]:
    """Score runs and return the rows of a score table, in the order of the runs.

    Args:
        runs: predictions of each (model, split).
        metrics_of: names of the metrics of each split; by default a split is a benchmark, with its metrics.
        by: also score every group of examples with the same value of this entry of `meta` ("family"), of the
            splits that have it.
        seed: seed of the bootstrap, which scores that are no mean of shares have.

    Raises:
        ValueError: a split without metrics, or no split has the entry, or it is none to group by.
    """
    if by is not None:
        check_field(by, [row.meta for predictions in runs.values() for row in _load(predictions)])
    if metrics_of is None:
        metrics_of = {name: benchmark.metrics for name, benchmark in BENCHMARKS.items()}

    rows = []
    for (model, split), predictions in runs.items():
        if split not in metrics_of:
            raise ValueError(
                f"No metrics are given for the split {split!r}: expected {', '.join(metrics_of)}."
            )

        examples = _load(predictions)
        if unanswered := [row.id for row in examples if not row.answers]:
            raise ValueError(
                f"{len(unanswered)} of the {len(examples)} questions of {split} have no accepted answer, "
                f"such as {unanswered[0]!r}: leave them out, or give their answers"
            )

        # Counted over the full split, also for its groups: CIDEr weighs words by their rarity in the split.
        counts = {metric: _count(examples, metric) for metric in metrics_of[split]}
        for group, indices in _groups(examples, by).items():
            answer_counts = _count_answers([examples[index] for index in indices])
            for metric in metrics_of[split]:
                # MME's sum over perception tasks says nothing about a cognition task.
                if group != ALL and not counts[metric].covers(indices):
                    continue
                interval = counts[metric].select(indices).interval(seed)
                rows.append(ScoreRow(model, split, group, metric, *interval, **answer_counts))

    return rows


def _count_answers(rows: Sequence[Prediction]) -> dict[str, int]:
    """Return how many questions failed or have no prediction, an empty one, or one that was cut off."""
    missing = sum(row.error == NO_PREDICTION for row in rows)
    return {
        "failed": sum(bool(row.error) for row in rows) - missing,
        "missing": missing,
        "empty": sum(row.is_empty for row in rows),
        "cut": sum(row.is_cut for row in rows),
    }


def check_field(by: str, metas: Sequence[Meta]) -> None:
    """Check that a field of `meta` divides some of the examples into groups.

    Raises:
        ValueError: it does not.
    """
    values = [meta[by] for meta in metas if by in meta]
    if not values:
        names = dict.fromkeys(name for meta in metas for name, value in meta.items() if _is_group(value))
        choices = f"choose one of {', '.join(names)}" if names else "there is none to group by"
        raise ValueError(f"no question has a field {by!r}: {choices}")

    for value in values:
        if not _is_group(value):
            raise ValueError(
                f"questions cannot be grouped by {by!r}: expected texts or numbers, got {value!r:.60}"
            )
    num_groups = len(set(map(str, values)))
    if num_groups > _MAX_GROUPS:
        raise ValueError(
            f"questions cannot be grouped by {by!r}: it has {num_groups} values, expected at most "
            f"{_MAX_GROUPS}"
        )


def _is_group(value: Any) -> bool:
    return not isinstance(value, list | dict)


def _groups(rows: Sequence[Prediction], by: str | None) -> dict[str, list[int]]:
    """Return the indices of all predictions, and of those in each group, in the order of the names."""
    # Every example is in the group of all, and in that of its value.
    groups: dict[str, list[int]] = {}
    if any(by in row.meta for row in rows):
        for index, row in enumerate(rows):
            groups.setdefault(str(row.meta.get(by, "unknown")), []).append(index)

    return {ALL: list(range(len(rows)))} | {group: groups[group] for group in sorted(groups)}


def write_table(rows: Sequence[ScoreRow], path: Path | str, *, answer_counts: bool = False) -> Path:
    """Write a score table as CSV, atomically.

    Args:
        rows: the scores.
        path: the file.
        answer_counts: add columns for the numbers of failed, missing, empty and cut answers.
    """
    columns = [field.name for field in fields(ScoreRow)]
    if not answer_counts:
        columns = [column for column in columns if column not in COUNT_COLUMNS]

    lines = [{column: getattr(row, column) for column in columns} for row in rows]
    return write_csv(lines, Path(path), columns)
