"""How sure a score is: bootstrap intervals, also of the difference between two runs."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

_BLOCK = 200  # resamples drawn at once: bounds the memory to 200 x examples


class Interval(NamedTuple):
    """A score with its bootstrap percentile interval, over `n` examples."""

    value: float
    low: float
    high: float
    n: int


def _clustered(
    columns: np.ndarray, clusters: Sequence[Hashable] | None, strata: Sequence[Hashable] | None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Sums of the columns over each cluster, and the numbers of the clusters in each stratum.

    A cluster lies in the stratum of its first row.
    """
    rows = len(columns)
    for name, given in (("cluster", clusters), ("stratum", strata)):
        if given is not None and len(given) != rows:
            raise ValueError(f"Expected one {name} for each score: got {len(given)} for {rows} scores.")
    sums, first = columns, np.arange(rows)
    if clusters is not None:
        numbers: dict[Hashable, int] = {}
        index = np.asarray([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
        sums = np.stack([np.bincount(index, weights=column) for column in columns.T], axis=1)
        first = np.unique(index, return_index=True)[1]
    members: dict[Hashable, list[int]] = {}
    for number, row in enumerate(first.tolist()):
        members.setdefault(None if strata is None else strata[row], []).append(number)
    return sums, [np.asarray(numbers) for numbers in members.values()]


def _resampled(
    tables: Sequence[np.ndarray], strata: Sequence[np.ndarray], resamples: int, seed: int
) -> Iterator[list[np.ndarray]]:
    """Sums of each table `[clusters, columns]` over draws of its clusters with replacement.

    The same draws for all tables, in blocks of at most 200: `[draws, columns]` each.
    """
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, _BLOCK):
        block = min(_BLOCK, resamples - start)
        drawn = np.zeros((block, len(tables[0])), dtype=np.int64)
        for numbers in strata:
            share = np.full(len(numbers), 1 / len(numbers))
            drawn[:, numbers] = generator.multinomial(len(numbers), share, size=block)
        yield [np.stack([drawn @ column for column in table.T], axis=1) for table in tables]


def bootstrap_totals(
    table: np.ndarray,
    combine: Callable[[np.ndarray], np.ndarray],
    *,
    other: np.ndarray | None = None,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """A score made of sums over examples, such as F1, with its percentile interval.

    Args:
        table: what is summed of each example, `[examples, columns]`.
        combine: the score from sums, `[..., columns]` -> `[...]`.
        other: the same of another run on the same examples: then the interval is of the difference between
            the runs, drawn together.
        clusters: see `bootstrap_interval`.
        strata: what each example counts in, such as the task: as many of each are drawn as there are.
        confidence: see `bootstrap_interval`.
        resamples: see `bootstrap_interval`.
        seed: see `bootstrap_interval`.

    Raises:
        ValueError: no examples, a number that isn't finite, or tables of different shapes.
    """
    tables = [np.asarray(rows, dtype=float) for rows in ([table] if other is None else [table, other])]
    for rows in tables:
        if rows.ndim != 2 or not len(rows):
            raise ValueError(f"A score needs a table of at least one example: got shape {rows.shape}.")
        if rows.shape != tables[0].shape:
            raise ValueError(f"Two runs need tables of one shape: got {tables[0].shape} and {rows.shape}.")
        if not np.isfinite(rows).all():
            bad = int(np.argmin(np.isfinite(rows).all(axis=1)))
            raise ValueError(f"Scores must be finite: number {bad} isn't.")
    if not 0 < confidence < 1:
        raise ValueError(f"The confidence must lie between 0 and 1: got {confidence}.")
    clustered = [_clustered(rows, clusters, strata) for rows in tables]

    def score(sums: Sequence[np.ndarray]) -> np.ndarray:
        first, *second = (combine(each) for each in sums)
        return first - second[0] if second else first

    draws = _resampled([sums for sums, _ in clustered], clustered[0][1], resamples, seed)
    low, high = np.quantile(
        np.concatenate([score(sums) for sums in draws]), [(1 - confidence) / 2, (1 + confidence) / 2]
    )
    totals = [np.asarray([column.sum() for column in np.ascontiguousarray(rows.T)]) for rows in tables]
    value = float(score(totals))
    # Rounding may leave the score of identical examples a hair outside its own resampled scores.
    return Interval(value, min(float(low), value), max(float(high), value), len(table))


def mean(sums: np.ndarray) -> np.ndarray:
    """The mean from sums of scores and of examples, `[..., 2]` -> `[...]`."""
    return sums[..., 0] / sums[..., 1]


def bootstrap_interval(
    scores: Sequence[float] | np.ndarray,
    *,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of the scores with its percentile interval; the same input and seed give the same interval.

    Args:
        scores: one number for each example.
        clusters: what each example belongs to (its image): examples of a cluster are drawn together, since
            the questions of an image aren't independent.
        confidence: share of the resampled means inside the interval.
        resamples: number of bootstrap draws.
        seed: of the draws.

    Raises:
        ValueError: no scores, a score that isn't finite, or a confidence outside (0, 1).
    """
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"A score needs a list of at least one number: got shape {scores.shape}.")
    return bootstrap_totals(
        np.stack([scores, np.ones_like(scores)], axis=1),
        mean,
        clusters=clusters,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
