"""How sure a score is: bootstrap intervals, and the paired comparison of two runs."""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

_BLOCK = 200  # resamples drawn at once: bounds the memory to 200 x examples


class Interval(NamedTuple):
    """A mean with its bootstrap percentile interval, over `n` examples."""

    value: float
    low: float
    high: float
    n: int


def _by_cluster(scores: np.ndarray, clusters: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum of scores and number of examples of each cluster."""
    if clusters is None:
        return scores, np.ones_like(scores)
    if len(clusters) != len(scores):
        raise ValueError(
            f"Expected one cluster for each score: got {len(clusters)} for {len(scores)} scores."
        )
    numbers: dict[Hashable, int] = {}
    index = np.asarray([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    return np.bincount(index, weights=scores), np.bincount(index).astype(float)


def _resampled_means(sums: np.ndarray, counts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of `resamples` draws of the clusters with replacement."""
    generator = np.random.default_rng(seed)
    share = np.full(len(sums), 1 / len(sums))
    means = []
    for start in range(0, resamples, _BLOCK):
        drawn = generator.multinomial(len(sums), share, size=min(_BLOCK, resamples - start))
        means.append((drawn @ sums) / (drawn @ counts))
    return np.concatenate(means)


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
    if not np.isfinite(scores).all():
        raise ValueError(f"Scores must be finite: number {int(np.argmin(np.isfinite(scores)))} isn't.")
    if not 0 < confidence < 1:
        raise ValueError(f"The confidence must lie between 0 and 1: got {confidence}.")
    means = _resampled_means(*_by_cluster(scores, clusters), resamples, seed)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    value = float(scores.mean())
    # Rounding may leave the mean of identical scores a hair outside its own resampled means.
    return Interval(value, min(float(low), value), max(float(high), value), len(scores))


def paired_difference(
    first: Mapping[str, float],
    second: Mapping[str, float],
    *,
    clusters: Mapping[str, Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of `first - second` over the same examples, with its bootstrap interval.

    The runs differ where the interval leaves 0 out.

    Args:
        first: score of each example id in one run.
        second: the same ids in the other run.
        clusters: the image of each id, as for `bootstrap_interval`.
        confidence: see `bootstrap_interval`.
        resamples: see `bootstrap_interval`.
        seed: see `bootstrap_interval`.

    Raises:
        ValueError: the runs don't hold the same ids.
    """
    if first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())
        raise ValueError(
            "Two runs can only be compared on the same examples: "
            f"{len(odd)} ids are in one alone, such as {odd[0]!r}."
        )
    ids = sorted(first)
    return bootstrap_interval(
        [first[i] - second[i] for i in ids],
        clusters=None if clusters is None else [clusters[i] for i in ids],
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
