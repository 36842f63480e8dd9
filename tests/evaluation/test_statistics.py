"""Intervals: how often they contain what they estimate, by simulation, and what they do at the edges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeylib.evaluation import statistics
from monkeylib.evaluation.metrics import due

SHARES = (0.02, 0.05, 0.1, 0.3, 0.5, 0.8, 0.95, 0.98)
DATA_SETS = 2000  # the standard error of a simulated coverage of 95 % is 0.5 points


def simulate_answers(share, examples, most_questions, correlation, random):
    """Return sums and sizes `[data sets, images]` of answers that are dependent within images.

    The share of an image is drawn from a beta distribution, whose spread gives the correlation.
    """
    images = round(examples / ((1 + most_questions) / 2))
    sizes = random.integers(1, most_questions + 1, (DATA_SETS, images))
    shares = np.full(sizes.shape, share)
    if correlation:
        scale = (1 - correlation) / correlation
        shares = random.beta(share * scale, (1 - share) * scale, sizes.shape)
    return random.binomial(sizes, shares).astype(float), sizes.astype(float)


# Shares


@pytest.mark.parametrize("examples", [40, 80, 200, 600])
@pytest.mark.parametrize(("most_questions", "correlation"), [(1, 0), (5, 0), (5, 0.3), (5, 0.6)])
def test_interval_of_a_share_contains_it_as_often_as_it_says(examples, most_questions, correlation):
    random = np.random.default_rng(0)
    coverage = {}
    for share in SHARES:
        sums, sizes = simulate_answers(share, examples, most_questions, correlation, random)
        low, high = statistics.share_limits(sums, sizes)
        coverage[share] = np.mean((low <= share) & (share <= high))

    assert min(coverage.values()) >= 0.93, coverage
    # Intervals of any width would hold: in the middle, these are about as narrow as they can be.
    assert coverage[0.5] <= 0.993


def test_interval_of_a_share_of_many_examples_is_the_normal_one():
    scores = np.arange(4000) % 10 < 3
    interval = statistics.mean_interval(scores.astype(float))
    half_width = 1.96 * np.sqrt(0.3 * 0.7 / 4000)

    assert interval.value == pytest.approx(0.3) and interval.n == 4000
    assert interval.high - interval.low == pytest.approx(2 * half_width, rel=0.02)


@pytest.mark.parametrize("score", [0.0, 1.0])
@pytest.mark.parametrize("clusters", [None, [image // 3 for image in range(60)]])
def test_equal_scores_leave_an_interval(score, clusters):
    """None of n events bounds the share of events to about 3 / n."""
    interval = statistics.mean_interval([score] * 60, clusters=clusters)
    rule_of_three = 3 / 60

    assert interval.value == score
    assert rule_of_three < interval.high - interval.low < 4 * rule_of_three


def test_clusters_widen_the_interval_of_dependent_scores():
    scores = np.repeat(np.random.default_rng(0).integers(0, 2, 50), 8).astype(float)
    clusters = np.repeat(np.arange(50), 8).tolist()
    independent = statistics.mean_interval(scores)
    clustered = statistics.mean_interval(scores, clusters=clusters)
    ratio = (clustered.high - clustered.low) / (independent.high - independent.low)

    # Eight copies of each score hold no more information than one, so the interval is sqrt(8) times as wide.
    assert ratio == pytest.approx(np.sqrt(8), rel=0.15)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_interval_contains_the_mean_and_lies_between_0_and_1(scores):
    interval = statistics.mean_interval(scores)
    tolerance = 1e-12

    assert -tolerance <= interval.low <= interval.value <= interval.high <= 1 + tolerance


def test_one_image_says_nothing_about_others():
    assert statistics.mean_interval([1.0, 1.0], clusters=["a", "a"]) == (1, 0, 1, 2)
    assert statistics.difference_interval([0.0, 1.0], clusters=["a", "a"]) == (0.5, -1, 1, 2)
    assert statistics.mean_interval([7.0], is_share=False) == (7, -np.inf, np.inf, 1)


def test_interval_of_other_scores_is_that_of_student():
    """The second table of Student's paper (1908): ten patients' additional hours of sleep."""
    hours = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    interval = statistics.mean_interval(hours, is_share=False)

    assert interval == pytest.approx((1.58, 0.7001, 2.4599, 10), abs=1e-4)
    assert statistics.difference_interval(hours, is_share=False) == interval


# Paired differences


@pytest.mark.parametrize("examples", [40, 120, 600])
@pytest.mark.parametrize(("most_questions", "correlation"), [(1, 0), (5, 0.3)])
def test_interval_of_a_difference_contains_it_as_often_as_it_says(examples, most_questions, correlation):
    random = np.random.default_rng(1)
    coverage = {}
    for discordant in (0.02, 0.05, 0.1, 0.3, 0.6):
        sums, sizes = simulate_answers(discordant, examples, most_questions, correlation, random)
        for direction in (0, 0.5, 1):
            wins = random.binomial(sums.astype(int), (1 + direction) / 2)
            low, high = statistics.share_difference_limits(2 * wins - sums, sizes)
            difference = discordant * direction
            coverage[discordant, direction] = np.mean((low <= difference) & (difference <= high))

    # Of no difference, at most one interval in twenty leaves out 0, with the noise of 2,000 simulations.
    assert min(coverage.values()) >= 0.93, coverage
    assert min(value for (_, direction), value in coverage.items() if not direction) >= 0.94


def test_equal_runs_leave_an_interval():
    interval = statistics.difference_interval(np.zeros(80))

    assert interval.value == 0 and -0.06 < interval.low < -0.02 and interval.high == -interval.low


def test_paired_difference_is_significant_where_separate_intervals_overlap():
    worse = np.random.default_rng(2).integers(0, 2, 200).astype(float)
    # One run is better on every twentieth example and equal on the others.
    better = np.maximum(worse, np.arange(200) % 20 < 2)
    worse_interval = statistics.mean_interval(worse)
    better_interval = statistics.mean_interval(better)

    assert better_interval.low < worse_interval.high, "the intervals overlap"

    difference = statistics.difference_interval(better - worse)

    assert difference.low > 0
    assert difference.value == pytest.approx(better_interval.value - worse_interval.value)

    reverse = statistics.difference_interval(worse - better)
    assert (reverse.low, reverse.high) == pytest.approx((-difference.high, -difference.low))


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: statistics.mean_interval([]), "at least one number"),
        (lambda: statistics.mean_interval([0.0, float("nan")]), "number 1 isn't"),
        (lambda: statistics.mean_interval([0.0, 0.0], confidence=95), "between 0 and 1: got 95"),
        (lambda: statistics.mean_interval([0.0, 1.0], clusters=["a"]), "one cluster for each"),
        (lambda: statistics.mean_interval([0.0, 1.5]), "is_share=False"),
        (lambda: statistics.difference_interval([0.0, -1.5]), "is_share=False"),
        (lambda: statistics.crossed_interval(np.zeros(4)), "[seeds, examples]"),
        (lambda: statistics.crossed_interval(np.zeros((1, 4))), "at least two seeds"),
        (lambda: statistics.crossed_interval(np.zeros((2, 2)), clusters="aa"), "two clusters: got 2 and 1"),
        (lambda: statistics.crossed_interval(np.array([[0, np.nan], [0, 0]])), "number 1 isn't"),
    ],
)
def test_invalid_scores_raise(call, complaint):
    with pytest.raises(ValueError) as error:
        call()
    assert complaint in str(error.value)


# Seeds crossed with examples


def simulate_differences(seeds, images, seed_spread, random, data_sets=DATA_SETS):
    """Return sums of differences with mean 0 `[data sets, seeds, images]`, and the images' sizes.

    Examples differ by 1 within a seed, images by 0.5 in all seeds, and seeds by `seed_spread`.
    """
    sizes = random.integers(1, 4, images).astype(float)
    of_seeds = random.normal(0, seed_spread, (data_sets, seeds, 1))
    of_images = random.normal(0, 0.5, (data_sets, 1, images))
    rest = random.normal(0, 1, (data_sets, seeds, images))
    return (of_seeds + of_images) * sizes + rest * np.sqrt(sizes), sizes


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("seed_spread", [0, 0.05, 0.2, 1])
def test_crossed_interval_contains_the_difference_as_often_as_it_says(seeds, seed_spread):
    random = np.random.default_rng(3)
    sums, sizes = simulate_differences(seeds, 100, seed_spread, random)
    means = sums.sum(axis=(1, 2)) / (seeds * sizes.sum())
    half_widths = statistics.crossed_variance(sums, sizes).half_width()

    assert 0.93 <= np.mean(np.abs(means) <= half_widths) <= 0.99

    # An interval over the examples alone leaves out how much the seeds differ.
    low, high = statistics.share_difference_limits(
        sums.mean(axis=1), np.broadcast_to(sizes, sums[:, 0].shape)
    )
    if seed_spread == 1:
        assert np.mean((low <= 0) & (0 <= high)) < 0.5


def test_crossed_interval_is_computed_from_mean_squares():
    """Three seeds, four images, worked out by hand: MS(seeds) 3, MS(images) 4, MS(rest) 1/2."""
    of_seeds = np.array([-1, 0, 1])[:, None] * np.sqrt(3 / 4)
    of_images = np.array([-1, 1, -1, 1]) * 1.0
    rest = np.array([[1, 1, -1, -1], [-1, -1, 1, 1], [0, 0, 0, 0]]) * np.sqrt(3 / 8)
    interval = statistics.crossed_interval(5 + of_seeds + of_images + rest)

    # Student's 97.5 % quantiles of two and three degrees of freedom.
    half_width = np.sqrt(4.302653**2 * (3 - 0.5) + 3.182446**2 * 4) / np.sqrt(12)
    assert interval == pytest.approx((5, 5 - half_width, 5 + half_width, 4))


def test_questions_of_an_image_count_as_one_cluster():
    random = np.random.default_rng(4)
    differences = random.normal(0, 1, (3, 60))
    clusters = [image for image in range(60) for _ in range(4)]
    repeated = statistics.crossed_interval(np.repeat(differences, 4, axis=1), clusters=clusters)

    assert repeated[:3] == pytest.approx(statistics.crossed_interval(differences)[:3])
    assert repeated.n == 240


# Other scores


def f1_counts(correct, expected):
    return np.stack([correct, np.ones_like(correct), correct, expected], axis=1)


def test_interval_of_f1_is_near_that_of_explicit_draws_and_repeatable():
    random = np.random.default_rng(3)
    counts = f1_counts(random.integers(0, 2, 300), 1 + (random.random(300) < 0.3))
    interval = statistics.bootstrap_interval(counts, due.f1)

    assert interval.value == due.f1(counts.sum(axis=0)) and interval.n == 300
    assert statistics.bootstrap_interval(counts, due.f1) == interval
    assert statistics.bootstrap_interval(counts, due.f1, seed=1) != interval

    # Draws of examples one by one, in place of multinomial counts. Far from the edges, BCa moves little.
    draws = [due.f1(counts[random.integers(0, 300, 300)].sum(axis=0)) for _ in range(2000)]
    assert interval.low == pytest.approx(np.quantile(draws, 0.025), abs=0.01)
    assert interval.high == pytest.approx(np.quantile(draws, 0.975), abs=0.01)


def test_bca_contains_a_skewed_mean_more_often_than_percentiles():
    """Scores such as CIDEr-D, few of them high: 40 from an exponential distribution with mean 1."""
    random = np.random.default_rng(5)
    covered = {"BCa": 0, "percentile": 0}
    for _ in range(400):
        scores = random.exponential(1, 40)
        counts = np.stack([scores, np.ones(40)], axis=1)
        interval = statistics.bootstrap_interval(counts, statistics.mean, resamples=400)
        covered["BCa"] += interval.low <= 1 <= interval.high

        times = random.multinomial(40, np.full(40, 1 / 40), 400)
        low, high = np.quantile(times @ scores / 40, [0.025, 0.975])
        covered["percentile"] += low <= 1 <= high

    assert covered["BCa"] >= 0.92 * 400 and covered["BCa"] > covered["percentile"], covered


def test_two_runs_are_resampled_together():
    worse = np.random.default_rng(4).integers(0, 2, 200)
    # Better on every twentieth example, equal on the others.
    better = np.minimum(1, worse + (np.arange(200) % 20 == 0))
    worse_counts = f1_counts(worse, np.ones(200))
    better_counts = f1_counts(better, np.ones(200))
    worse_interval = statistics.bootstrap_interval(worse_counts, due.f1)
    better_interval = statistics.bootstrap_interval(better_counts, due.f1)
    difference = statistics.bootstrap_interval(better_counts, due.f1, other_counts=worse_counts)

    assert better_interval.low < worse_interval.high and difference.low > 0
    assert difference.value == pytest.approx(better_interval.value - worse_interval.value)


@pytest.mark.parametrize("correct", [0, 1])
def test_f1_at_an_edge_leaves_the_interval_of_as_many_answers(correct):
    counts = f1_counts(np.full(30, correct), np.ones(30))
    interval = statistics.bootstrap_interval(counts, due.f1)

    assert interval == pytest.approx(statistics.mean_interval(np.full(30, float(correct))))
    assert interval.high - interval.low > 0.1

    # Twice the maximum, twice the width.
    doubled = statistics.bootstrap_interval(counts, lambda sums: 2 * due.f1(sums), maximum=2)
    assert doubled[:3] == pytest.approx([2 * end for end in interval[:3]])

    # Two runs that are equal on all documents may differ on others.
    difference = statistics.bootstrap_interval(counts, due.f1, other_counts=counts)
    assert difference == pytest.approx(statistics.difference_interval(np.zeros(30)))


def test_score_that_all_draws_exceed_has_an_interval():
    """BCa is undefined where no draw lies below the score: then its percentiles are those of the draws."""

    def spread(sums):
        # 0 if both examples count once, else 1.
        return (sums[..., 0] != sums[..., 1]).astype(float)

    interval = statistics.bootstrap_interval(np.eye(2), spread)
    assert interval == (0, 0, 1, 2)


@pytest.mark.parametrize(
    ("table", "options", "complaint"),
    [
        (np.zeros((0, 4)), {}, "at least one example"),
        (np.zeros(4), {}, "at least one example"),
        (np.full((2, 4), np.nan), {}, "number 0 isn't"),
        (np.zeros((2, 4)), {"other_counts": np.zeros((3, 4))}, "tables of one shape"),
        (np.zeros((2, 4)), {"strata": ["a"]}, "one stratum for each score: got 1 for 2"),
        (np.zeros((2, 4)), {"confidence": 95}, "between 0 and 1"),
    ],
)
def test_invalid_counts_raise(table, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        statistics.bootstrap_interval(table, due.f1, **options)
