"""95 % intervals of scores, and of the difference between two runs on the same examples.

Questions about an image aren't independent, so images are the units (clusters), and all quantiles are
Student's with one degree of freedom less than there are clusters. `n` examples lie in `C` clusters.

    mean_interval        mean of shares such as accuracy: Wilson's interval. It holds near 0 and 1, where the
                         resamples of a bootstrap are all alike and its interval shrinks to nothing
    difference_interval  paired difference of two runs: their examples' difficulty cancels out
    crossed_interval     paired difference of two variants, each trained from several seeds
    bootstrap_interval   any score computed from sums over examples, such as F1: BCa bootstrap

`tests/evaluation/test_statistics.py` simulates how often they contain what they estimate.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

_DRAWS_AT_ONCE = 200  # bounds the memory to 200 x examples
_PRIOR_EVENTS = 2  # weight of the assumed dependence within clusters, in events
_PRIOR_CORRELATION = 0.5  # of the answers to the questions of an image
_CONTINUITY = 0.25  # events
_ROUNDING = 1e-9


class Interval(NamedTuple):
    """A score with its interval over `n` examples; infinite where the examples can't bound the score."""

    value: float
    low: float
    high: float
    n: int


# --- means and differences of means -------------------------------------------------------------------------


def mean_interval(
    scores: Sequence[float] | np.ndarray,
    *,
    clusters: Sequence[Hashable] | None = None,
    is_share: bool = True,
    confidence: float = 0.95,
) -> Interval:
    """Return the mean of scores with its interval.

    Args:
        scores: one number for each example.
        clusters: the cluster (image) of each example; by default each example is its own.
        is_share: the scores lie between 0 and 1, as accuracy does: the interval is `share_limits`. Otherwise
            it is Student's, mean ± t * standard error over clusters.
        confidence: the share of intervals that contain the mean of all possible examples.

    Raises:
        ValueError: no scores, a score that isn't finite or no share, or a confidence outside (0, 1).
    """
    values = _check_scores(scores)
    (sums,), sizes = sum_over_clusters(values[None], clusters)
    if not is_share:
        return _as_interval(values.mean(), *_student_limits(sums, sizes, confidence), len(values))

    if values.min() < 0 or values.max() > 1 + _ROUNDING:
        raise ValueError(
            f"Shares lie between 0 and 1: got {values.min():g} to {values.max():g}. "
            "Other scores need is_share=False."
        )
    return _as_interval(values.mean(), *share_limits(sums, sizes, confidence), len(values))


def difference_interval(
    differences: Sequence[float] | np.ndarray,
    *,
    clusters: Sequence[Hashable] | None = None,
    is_share: bool = True,
    confidence: float = 0.95,
) -> Interval:
    """Return the mean of paired differences, one run minus another on the same examples, with its interval.

    Args:
        differences: one number for each example.
        clusters: see `mean_interval`.
        is_share: the scores lie between 0 and 1: the interval is `share_difference_limits`. Otherwise it is
            Student's.
        confidence: see `mean_interval`.

    Raises:
        ValueError: no differences, one that isn't finite or none of shares, or a confidence outside (0, 1).
    """
    values = _check_scores(differences)
    (sums,), sizes = sum_over_clusters(values[None], clusters)
    if not is_share:
        return _as_interval(values.mean(), *_student_limits(sums, sizes, confidence), len(values))

    if np.abs(values).max() > 1 + _ROUNDING:
        raise ValueError(
            f"Differences of shares lie between -1 and 1: got {values.min():g} to {values.max():g}. "
            "Other scores need is_share=False."
        )
    return _as_interval(values.mean(), *share_difference_limits(sums, sizes, confidence), len(values))


def share_limits(
    sums: np.ndarray, sizes: np.ndarray, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends of Wilson's interval (1927) of the mean share p, for any number of data sets at once.

    Dependence within clusters makes n examples worth only n / d:

        d = (1 - w) max(1, measured)  +  w (1 + (n / C - 1) / 2),        w = 2 / (2 + events)

    The measured design effect is the variance of p over clusters, divided by that of independent examples,
    p (1 - p) / n. It is noise where there are few events (the smaller of the sums of p and of 1 - p), so that
    it is shrunk towards a correlation of 1/2 within clusters. With n' = n / d and Student's quantile t, the
    ends solve

        |q - p| = t sqrt(q (1 - q) / n')  +  1 / (4 n')

    The last term is half of Yates' correction for continuity. Without it, coverage falls to 92 % where one or
    two examples are expected to differ from the others.

    Args:
        sums: sum of the shares in each cluster, `[..., C]`.
        sizes: number of examples in each cluster, `[..., C]`.
        confidence: see `mean_interval`.

    Returns:
        The lower and the upper ends, `[...]` each; 0 and 1 if there is a single cluster.
    """
    total = sums.sum(axis=-1)
    examples = sizes.sum(axis=-1)
    num_clusters = sums.shape[-1]
    share = np.clip(total / examples, 0, 1)
    if num_clusters == 1:
        return np.zeros_like(share), np.ones_like(share)

    independent_variance = share * (1 - share) / examples
    measured = np.divide(
        _variance_of_mean(sums, sizes),
        independent_variance,
        out=np.ones_like(share),
        where=independent_variance > 0,
    )
    events = np.minimum(total, examples - total)
    weight = _PRIOR_EVENTS / (_PRIOR_EVENTS + events)
    assumed = 1 + (examples / num_clusters - 1) * _PRIOR_CORRELATION
    effective_examples = examples / ((1 - weight) * np.maximum(measured, 1) + weight * assumed)

    # The quadratic equation for q, once for either sign of q - p.
    k = _student_quantile(confidence, num_clusters - 1) ** 2 / effective_examples
    limits = []
    for sign in (-1, 1):
        nearer = np.clip(share + sign * _CONTINUITY / effective_examples, 0, 1)
        half_width = np.sqrt(k * (nearer * (1 - nearer) + k / 4))
        limits.append((nearer + k / 2 + sign * half_width) / (1 + k))

    return limits[0], limits[1]


def share_difference_limits(
    sums: np.ndarray, sizes: np.ndarray, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends of the interval of the mean paired difference of shares, for many data sets at once.

    Two clusters of mean size are added, in one of which each example is won and in the other each is lost
    (after Agresti and Min, 2005, who add as much to the four cells of a paired table). Then runs that never
    differ on the examples at hand may still differ on others: without them that interval would have no width.
    The rest is Student's interval over clusters.

    Args:
        sums: sum of the differences in each cluster, `[..., C]`.
        sizes: number of examples in each cluster, `[..., C]`.
        confidence: see `mean_interval`.

    Returns:
        The lower and the upper ends, `[...]` each; -1 and 1 if there is a single cluster.
    """
    num_clusters = sums.shape[-1]
    if num_clusters == 1:
        ones = np.ones(sums.shape[:-1])
        return -ones, ones

    mean_size = sizes.mean(axis=-1, keepdims=True)
    sums = np.concatenate([sums, mean_size, -mean_size], axis=-1)
    sizes = np.concatenate([sizes, mean_size, mean_size], axis=-1)

    # Two added clusters bring no degrees of freedom.
    quantile = _student_quantile(confidence, num_clusters - 1)
    difference = sums.sum(axis=-1) / sizes.sum(axis=-1)
    half_width = quantile * np.sqrt(_variance_of_mean(sums, sizes))
    return np.maximum(difference - half_width, -1), np.minimum(difference + half_width, 1)


def _student_limits(sums: np.ndarray, sizes: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends of mean ± t * standard error over clusters, infinite if there is a single cluster."""
    mean_score = sums.sum(axis=-1) / sizes.sum(axis=-1)
    if sums.shape[-1] == 1:
        return np.full_like(mean_score, -np.inf), np.full_like(mean_score, np.inf)

    quantile = _student_quantile(confidence, sums.shape[-1] - 1)
    half_width = quantile * np.sqrt(_variance_of_mean(sums, sizes))
    return mean_score - half_width, mean_score + half_width


def _variance_of_mean(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the variance of sum(sums) / sum(sizes) over clusters, `[..., C]` -> `[...]`.

    It is linearised, since the sizes vary too: each cluster counts by its sum minus the mean times its size.
    """
    num_clusters = sums.shape[-1]
    examples = sizes.sum(axis=-1)
    mean_score = sums.sum(axis=-1) / examples
    residuals = sums - mean_score[..., None] * sizes
    return num_clusters / (num_clusters - 1) * (residuals**2).sum(axis=-1) / examples**2


# --- seeds crossed with examples ----------------------------------------------------------------------------


class CrossedVariance(NamedTuple):
    """Variance of the mean of a table of seeds and examples, by its sources.

    Attributes:
        seeds: the part that more seeds make smaller, [MS(seeds) - MS(rest)] / (S C), at least 0.
        clusters: the part that more images make smaller, MS(clusters) / (S C).
        num_seeds: S.
        num_clusters: C.
    """

    seeds: np.ndarray
    clusters: np.ndarray
    num_seeds: int
    num_clusters: int

    def half_width(self, confidence: float = 0.95) -> np.ndarray:
        """Return half the width of the interval, each source with the quantile of its own degrees of freedom.

        sqrt(t(S - 1)^2 seeds  +  t(C - 1)^2 clusters)
        """
        seeds_quantile = _student_quantile(confidence, self.num_seeds - 1)
        clusters_quantile = _student_quantile(confidence, self.num_clusters - 1)
        return np.sqrt(seeds_quantile**2 * self.seeds + clusters_quantile**2 * self.clusters)


def crossed_interval(
    differences: np.ndarray, *, clusters: Sequence[Hashable] | None = None, confidence: float = 0.95
) -> Interval:
    """Return the mean of paired differences with its interval over new seeds and new examples.

    Training again from another seed moves the difference on all examples; another example moves it for all
    seeds. In the two-way layout both have their own variance, see `CrossedVariance`.

    Args:
        differences: one variant minus another, of the same seed and example, `[seeds, examples]`.
        clusters: the cluster (image) of each example; by default each example is its own.
        confidence: see `mean_interval`.

    Raises:
        ValueError: fewer than two seeds or two clusters, which say nothing about others; or a number that
            isn't finite.
    """
    differences = np.asarray(differences, dtype=float)
    if differences.ndim != 2 or not differences.size:
        raise ValueError(f"Expected differences [seeds, examples]: got shape {differences.shape}.")
    _check_finite(differences.T)
    sums, sizes = sum_over_clusters(differences, clusters)
    if min(sums.shape) < 2:
        raise ValueError(
            "An interval over seeds and examples needs at least two seeds and two clusters: got "
            f"{sums.shape[0]} and {sums.shape[1]}. `difference_interval` is over the examples of one seed."
        )

    mean_difference = differences.mean()
    half_width = crossed_variance(sums, sizes).half_width(confidence)
    low, high = mean_difference - half_width, mean_difference + half_width
    return _as_interval(mean_difference, low, high, differences.shape[1])


def crossed_variance(sums: np.ndarray, sizes: np.ndarray) -> CrossedVariance:
    """Return the variance of the mean over seeds and examples, for any number of data sets at once.

    Args:
        sums: sums of the differences in each cluster, `[..., S, C]`, with at least two of either.
        sizes: number of examples in each cluster, `[C]`.
    """
    num_seeds, num_clusters = sums.shape[-2:]
    mean_difference = sums.mean(axis=-2).sum(axis=-1) / sizes.sum()

    # Of mean 0, and one unit is one example on average, however unequal the clusters are.
    residuals = (sums - mean_difference[..., None, None] * sizes) / sizes.mean()
    of_seeds = residuals.mean(axis=-1, keepdims=True)
    of_clusters = residuals.mean(axis=-2, keepdims=True)
    rest = residuals - of_seeds - of_clusters

    mean_square_seeds = num_clusters * (of_seeds**2).sum(axis=(-2, -1)) / (num_seeds - 1)
    mean_square_clusters = num_seeds * (of_clusters**2).sum(axis=(-2, -1)) / (num_clusters - 1)
    mean_square_rest = (rest**2).sum(axis=(-2, -1)) / ((num_seeds - 1) * (num_clusters - 1))

    cells = num_seeds * num_clusters
    return CrossedVariance(
        seeds=np.maximum(mean_square_seeds - mean_square_rest, 0) / cells,
        clusters=mean_square_clusters / cells,
        num_seeds=num_seeds,
        num_clusters=num_clusters,
    )


# --- other scores: bootstrap --------------------------------------------------------------------------------


def mean(sums: np.ndarray) -> np.ndarray:
    """Return the mean from sums of scores and of examples, `[..., 2]` -> `[...]`."""
    return sums[..., 0] / sums[..., 1]


def bootstrap_interval(
    counts: np.ndarray,
    combine: Callable[[np.ndarray], np.ndarray],
    *,
    other_counts: np.ndarray | None = None,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    maximum: float = 1.0,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return a score computed from sums over examples, such as F1, with its BCa interval (Efron, 1987).

    C clusters are drawn with replacement from C, the score is computed from what was drawn, and two quantiles
    over all draws bound the interval. Which ones follows from the bias of the draws (the share below the
    score) and from their acceleration (the skewness of what single clusters contribute). Of two runs, both
    are computed on the same draws, so that the difficulty of the questions cancels out in the difference.

    Draws that are all equal, as those of an F1 of 0 or 1 are, say nothing about how far the score could be
    off. Then the interval is that of as many clusters with one right or wrong answer each: `share_limits` of
    `maximum`, and of two runs `share_difference_limits`.

    Args:
        counts: counts of each example, to be summed, `[examples, columns]`.
        combine: the score from sums, `[..., columns]` -> `[...]`.
        other_counts: counts of another run on the same examples; then value and interval are those of the
            difference, this run minus the other one.
        clusters: see `mean_interval`.
        strata: the stratum of each example, such as its task: as many clusters of each stratum are drawn as
            there are.
        maximum: the highest score, if the lowest is 0; for an error rate, the score of wrong answers.
        confidence: see `mean_interval`.
        resamples: number of bootstrap draws.
        seed: seed of the draws; the same input and seed give the same interval.

    Raises:
        ValueError: no examples, a number that isn't finite, or tables of different shapes.
    """
    runs = [counts] if other_counts is None else [counts, other_counts]
    tables = [np.asarray(run, dtype=float) for run in runs]
    _check_tables(tables)
    _check_confidence(confidence)

    def score(sums: Sequence[np.ndarray]) -> np.ndarray:
        if len(sums) == 1:
            return combine(sums[0])
        return combine(sums[0]) - combine(sums[1])

    # Column by column, each contiguous in memory: NumPy's pairwise summation is the most exact there.
    totals = [np.asarray([column.sum() for column in np.ascontiguousarray(table.T)]) for table in tables]
    value = float(score(totals))

    cluster_sums = [sum_over_clusters(table.T, clusters)[0].T for table in tables]
    members = _clusters_of_strata(len(tables[0]), clusters, strata)
    resampled = [score(sums) for sums in _resample(cluster_sums, members, resamples, seed)]
    draws = np.concatenate(resampled)

    # Sums in another order round differently.
    tolerance = _ROUNDING * max(1.0, abs(value))
    if np.ptp(draws) <= tolerance:
        is_difference = other_counts is not None
        limits = _limits_without_spread(value, members, maximum, is_difference, confidence)
        return _as_interval(value, *limits, len(counts))

    below = float(np.mean(draws < value - tolerance) + np.mean(np.abs(draws - value) <= tolerance) / 2)
    without_each = score([total - sums for total, sums in zip(totals, cluster_sums, strict=True)])
    degrees = len(cluster_sums[0]) - len(members)
    tails = _bca_tails(below, _acceleration(without_each, members), confidence, degrees)
    low, high = np.quantile(draws, tails)
    return _as_interval(value, low, high, len(counts))


def _bca_tails(below: float, acceleration: float, confidence: float, degrees: int) -> tuple[float, float]:
    """Return which quantiles of the draws bound the BCa interval.

        Phi(z0 + (z0 ± z) / (1 - a (z0 ± z)))

    z is Student's quantile times sqrt(C / (C - 1)), since the draws of few clusters spread too little
    (Hesterberg, 2015). Where the formula is undefined, the quantiles are those of the plain percentile
    bootstrap.

    Args:
        below: share z0 = Phi^-1(below) of the draws below the score.
        acceleration: a.
        confidence: see `mean_interval`.
        degrees: clusters minus strata.
    """
    z = _student_quantile(confidence, degrees) * np.sqrt((degrees + 1) / degrees)
    percentile = float(ndtr(-z)), float(ndtr(z))
    if not 0 < below < 1:
        return percentile

    bias = ndtri(below)
    distances = np.asarray([bias - z, bias + z])
    denominators = 1 - acceleration * distances
    if (denominators <= 0).any():
        return percentile
    low, high = ndtr(bias + distances / denominators)
    return float(low), float(high)


def _acceleration(without_each: np.ndarray, members: Sequence[np.ndarray]) -> float:
    """Return the acceleration of BCa from the scores without each cluster, `[C]`, within strata."""
    influences = np.zeros_like(without_each)
    for indices in members:
        scores = without_each[indices]
        # A stratum's only cluster is part of every draw.
        influences[indices] = (1 - 1 / len(indices)) * (scores.mean() - scores)

    spread = (influences**2).sum()
    return float((influences**3).sum() / (6 * spread**1.5)) if spread > 0 else 0.0


def _limits_without_spread(
    value: float,
    members: Sequence[np.ndarray],
    maximum: float,
    is_difference: bool,
    confidence: float,
) -> tuple[float, float]:
    """Return both ends of the interval of a score that is the same in all draws."""
    # The score of strata is the mean of theirs, whose variance is that of so many clusters in one stratum.
    num_clusters = max(1, round(len(members) ** 2 / sum(1 / len(indices) for indices in members)))
    sizes = np.ones(num_clusters)
    if is_difference:
        low, high = share_difference_limits(np.full(num_clusters, value / maximum), sizes, confidence)
    else:
        low, high = share_limits(np.full(num_clusters, value / maximum), sizes, confidence)
    return float(maximum * low), float(maximum * high)


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


# --- common -------------------------------------------------------------------------------------------------


def _student_quantile(confidence: float, degrees: int) -> float:
    _check_confidence(confidence)
    return float(stdtrit(degrees, (1 + confidence) / 2))


def _as_interval(value: float, low: np.ndarray | float, high: np.ndarray | float, examples: int) -> Interval:
    """Return an interval that contains its value, which rounding may leave a hair outside."""
    return Interval(float(value), min(float(low), float(value)), max(float(high), float(value)), examples)


def _cluster_of_each(examples: int, clusters: Sequence[Hashable] | None) -> np.ndarray:
    """Return the number of each example's cluster, in the order in which clusters first occur."""
    if clusters is None:
        return np.arange(examples)
    if len(clusters) != examples:
        raise ValueError(f"Expected one cluster for each score: got {len(clusters)} for {examples} scores.")

    numbers: dict[Hashable, int] = {}
    return np.asarray([numbers.setdefault(label, len(numbers)) for label in clusters])


def sum_over_clusters(rows: np.ndarray, clusters: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of each row over clusters, `[rows, examples]` -> `[rows, C]`, and the sizes, `[C]`."""
    numbers = _cluster_of_each(rows.shape[1], clusters)
    sums = np.stack([np.bincount(numbers, weights=row) for row in rows])
    return sums, np.bincount(numbers).astype(float)


def _clusters_of_strata(
    examples: int, clusters: Sequence[Hashable] | None, strata: Sequence[Hashable] | None
) -> list[np.ndarray]:
    """Return the numbers of the clusters in each stratum; a cluster lies in that of its first example."""
    numbers = _cluster_of_each(examples, clusters)
    if strata is not None and len(strata) != examples:
        raise ValueError(f"Expected one stratum for each score: got {len(strata)} for {examples} scores.")

    # Without strata, all clusters are members of one.
    first_examples = np.unique(numbers, return_index=True)[1]
    members: dict[Hashable, list[int]] = {}
    for cluster, example in enumerate(first_examples.tolist()):
        stratum = None if strata is None else strata[example]
        members.setdefault(stratum, []).append(cluster)

    return [np.asarray(indices) for indices in members.values()]


def _check_scores(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(scores, dtype=float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"A score needs a list of at least one number: got shape {values.shape}.")
    _check_finite(values)
    return values


def _check_tables(tables: Sequence[np.ndarray]) -> None:
    for table in tables:
        if table.ndim != 2 or not len(table):
            raise ValueError(f"A score needs a table of at least one example: got shape {table.shape}.")
        if table.shape != tables[0].shape:
            raise ValueError(f"Two runs need tables of one shape: got {tables[0].shape} and {table.shape}.")
        _check_finite(table)


def _check_finite(examples: np.ndarray) -> None:
    """Check the numbers of each example, `[examples, ...]`."""
    finite = np.isfinite(examples).reshape(len(examples), -1).all(axis=1)
    if not finite.all():
        raise ValueError(f"Scores must be finite: number {int(np.argmin(finite))} isn't.")


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"The confidence must lie between 0 and 1: got {confidence}.")
