"""Bootstrap intervals of scores, and of the difference between two runs on the same examples.

Percentile bootstrap (Efron, 1979): n clusters (images) are drawn with replacement from n, the score is
computed from what was drawn, and the 2.5 % and 97.5 % quantiles over 2,000 such draws bound the 95 %
interval. Examples of a cluster are drawn together, since the questions of an image aren't independent. Of two
runs, both are computed on the same draws, so that the difficulty of the questions cancels out in the
difference.

All scores are functions of sums over examples, so a draw is a vector of how often each cluster was drawn, and
the sums are its product with the clusters' counts.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

_DRAWS_AT_ONCE = 200  # bounds the memory to 200 x examples


class Interval(NamedTuple):
    """A score with its bootstrap percentile interval over `n` examples."""

    value: float
    low: float
    high: float
    n: int


def bootstrap_interval(
    scores: Sequence[float] | np.ndarray,
    *,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the mean of scores with its percentile interval; the same input and seed give the same interval.

    Args:
        scores: one number for each example.
        clusters: the cluster (image) of each example; by default each example is its own.
        confidence: share of the resampled means inside the interval.
        resamples: number of bootstrap draws.
        seed: seed of the draws.

    Raises:
        ValueError: no scores, a score that isn't finite, or a confidence outside (0, 1).
    """
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"A score needs a list of at least one number: got shape {scores.shape}.")
    return bootstrap_corpus_score(
        # A mean is the ratio of two sums: of the scores, and of the examples.
        np.stack([scores, np.ones_like(scores)], axis=1),
        mean,
        clusters=clusters,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )


def mean(sums: np.ndarray) -> np.ndarray:
    """Return the mean from sums of scores and of examples, `[..., 2]` -> `[...]`."""
    return sums[..., 0] / sums[..., 1]


def bootstrap_corpus_score(
    counts: np.ndarray,
    combine: Callable[[np.ndarray], np.ndarray],
    *,
    other_counts: np.ndarray | None = None,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return a score computed from sums over examples, such as F1, with its percentile interval.

    Args:
        counts: counts of each example, to be summed, `[examples, columns]`.
        combine: the score from sums, `[..., columns]` -> `[...]`.
        other_counts: counts of another run on the same examples; then value and interval are those of the
            difference, this run minus the other one.
        clusters: see `bootstrap_interval`.
        strata: the stratum of each example, such as its task: as many clusters of each stratum are drawn as
            there are.
        confidence: see `bootstrap_interval`.
        resamples: see `bootstrap_interval`.
        seed: see `bootstrap_interval`.

    Raises:
        ValueError: no examples, a number that isn't finite, or tables of different shapes.
    """
    runs = [counts] if other_counts is None else [counts, other_counts]
    tables = [np.asarray(run, dtype=float) for run in runs]
    _check_tables(tables)
    if not 0 < confidence < 1:
        raise ValueError(f"The confidence must lie between 0 and 1: got {confidence}.")

    def score(sums: Sequence[np.ndarray]) -> np.ndarray:
        if len(sums) == 1:
            return combine(sums[0])
        return combine(sums[0]) - combine(sums[1])

    # Both runs have the same clusters, so the strata of the first serve for both.
    clustered = [_sum_over_clusters(table, clusters, strata) for table in tables]
    cluster_sums = [sums for sums, _ in clustered]
    clusters_of_stratum = clustered[0][1]

    resampled = [score(sums) for sums in _resample(cluster_sums, clusters_of_stratum, resamples, seed)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(resampled), [tail, (1 + confidence) / 2])

    # Column by column, each contiguous in memory: NumPy's pairwise summation is the most exact there.
    totals = [np.asarray([column.sum() for column in np.ascontiguousarray(table.T)]) for table in tables]
    value = float(score(totals))

    # Rounding may leave the score of identical examples a hair outside its own resampled scores.
    return Interval(value, min(float(low), value), max(float(high), value), len(counts))


def _check_tables(tables: Sequence[np.ndarray]) -> None:
    for table in tables:
        if table.ndim != 2 or not len(table):
            raise ValueError(f"A score needs a table of at least one example: got shape {table.shape}.")
        if table.shape != tables[0].shape:
            raise ValueError(f"Two runs need tables of one shape: got {tables[0].shape} and {table.shape}.")

        finite = np.isfinite(table).all(axis=1)
        if not finite.all():
            raise ValueError(f"Scores must be finite: number {int(np.argmin(finite))} isn't.")


def _sum_over_clusters(
    table: np.ndarray, clusters: Sequence[Hashable] | None, strata: Sequence[Hashable] | None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Sum the columns over each cluster.

    Returns:
        The sums, `[clusters, columns]`, and the indices of the clusters in each stratum. A cluster lies in
        the stratum of its first example.
    """
    for name, labels in (("cluster", clusters), ("stratum", strata)):
        if labels is not None and len(labels) != len(table):
            raise ValueError(
                f"Expected one {name} for each score: got {len(labels)} for {len(table)} scores."
            )

    if clusters is None:
        sums = table
        first_examples = np.arange(len(table))
    else:
        # Clusters are numbered in the order in which they first occur.
        numbers: dict[Hashable, int] = {}
        cluster_of_example = np.asarray([numbers.setdefault(label, len(numbers)) for label in clusters])
        columns = [np.bincount(cluster_of_example, weights=column) for column in table.T]
        sums = np.stack(columns, axis=1)
        first_examples = np.unique(cluster_of_example, return_index=True)[1]

    # Without strata, all clusters are members of one.
    members: dict[Hashable, list[int]] = {}
    for cluster, example in enumerate(first_examples.tolist()):
        stratum = None if strata is None else strata[example]
        members.setdefault(stratum, []).append(cluster)

    return sums, [np.asarray(indices) for indices in members.values()]


def _resample(
    tables: Sequence[np.ndarray], strata: Sequence[np.ndarray], resamples: int, seed: int
) -> Iterator[list[np.ndarray]]:
    """Yield sums of each table `[clusters, columns]` over draws of its clusters with replacement.

    The draws are the same for all tables. They come in blocks of at most 200, `[draws, columns]` for each
    table.
    """
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, _DRAWS_AT_ONCE):
        draws = min(_DRAWS_AT_ONCE, resamples - start)

        # How often each cluster is drawn, [draws, clusters]: multinomial within each stratum.
        times = np.zeros((draws, len(tables[0])), dtype=np.int64)
        for members in strata:
            probabilities = np.full(len(members), 1 / len(members))
            times[:, members] = generator.multinomial(len(members), probabilities, size=draws)

        yield [np.stack([times @ column for column in table.T], axis=1) for table in tables]
