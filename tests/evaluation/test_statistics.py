"""Bootstrap intervals: of means, of other scores, and of the difference between two runs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeylib.evaluation import statistics
from monkeylib.evaluation.metrics import due


def test_bootstrap_interval_is_near_the_normal_one_and_repeatable():
    scores = np.random.default_rng(1).normal(0.5, 0.2, 400)
    interval = statistics.bootstrap_interval(scores)

    assert interval.value == pytest.approx(scores.mean()) and interval.n == 400

    # The normal approximation of the 95 % interval.
    half_width = 1.96 * scores.std() / np.sqrt(len(scores))
    assert interval.low == pytest.approx(scores.mean() - half_width, abs=0.003)
    assert interval.high == pytest.approx(scores.mean() + half_width, abs=0.003)

    assert statistics.bootstrap_interval(scores) == interval
    assert statistics.bootstrap_interval(scores, seed=1) != interval


def test_clusters_widen_the_interval_of_dependent_scores():
    scores = np.repeat(np.random.default_rng(0).integers(0, 2, 50), 8).astype(float)
    clusters = np.repeat(np.arange(50), 8).tolist()
    independent = statistics.bootstrap_interval(scores)
    clustered = statistics.bootstrap_interval(scores, clusters=clusters)
    ratio = (clustered.high - clustered.low) / (independent.high - independent.low)

    # Eight copies of each score hold no more information than one, so the interval is sqrt(8) times as wide.
    assert ratio == pytest.approx(np.sqrt(8), rel=0.15)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_interval_contains_the_mean(scores):
    interval = statistics.bootstrap_interval(scores, resamples=50)
    assert interval.low <= interval.value <= interval.high


def test_paired_difference_is_significant_where_separate_intervals_overlap():
    worse = np.random.default_rng(2).integers(0, 2, 200).astype(float)
    # One run is better on every twentieth example and equal on the others.
    better = np.maximum(worse, np.arange(200) % 20 == 0)
    worse_interval = statistics.bootstrap_interval(worse)
    better_interval = statistics.bootstrap_interval(better)

    assert better_interval.low < worse_interval.high, "the intervals overlap"

    worse_counts = np.stack([worse, np.ones_like(worse)], axis=1)
    better_counts = np.stack([better, np.ones_like(better)], axis=1)
    difference = statistics.bootstrap_corpus_score(better_counts, statistics.mean, other_counts=worse_counts)

    assert difference.low > 0
    assert difference.value == pytest.approx(better_interval.value - worse_interval.value)

    reverse = statistics.bootstrap_corpus_score(worse_counts, statistics.mean, other_counts=better_counts)
    assert reverse.high < 0


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: statistics.bootstrap_interval([]), "at least one number"),
        (lambda: statistics.bootstrap_interval([0.0, float("nan")]), "number 1 isn't"),
        (lambda: statistics.bootstrap_interval([0.0], confidence=95), "between 0 and 1"),
        (lambda: statistics.bootstrap_interval([0.0, 1.0], clusters=["a"]), "one cluster for each"),
    ],
)
def test_invalid_scores_raise(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()


def test_interval_of_f1_equals_that_of_explicit_draws():
    random = np.random.default_rng(3)
    correct = random.integers(0, 2, 300)
    expected = 1 + (random.random(300) < 0.3)
    counts = np.stack([correct, np.ones(300), correct, expected], axis=1)
    interval = statistics.bootstrap_corpus_score(counts, due.f1)

    assert interval.value == due.f1(counts.sum(axis=0)) and interval.n == 300

    # Draws of examples one by one, in place of multinomial counts.
    draws = [due.f1(counts[random.integers(0, 300, 300)].sum(axis=0)) for _ in range(2000)]
    assert interval.low == pytest.approx(np.quantile(draws, 0.025), abs=0.01)
    assert interval.high == pytest.approx(np.quantile(draws, 0.975), abs=0.01)


def test_two_runs_are_resampled_together():
    worse = np.random.default_rng(4).integers(0, 2, 200)
    # Better on every twentieth example, equal on the others.
    better = np.minimum(1, worse + (np.arange(200) % 20 == 0))
    worse_counts = np.stack([worse, np.ones(200), worse, np.ones(200)], axis=1)
    better_counts = np.stack([better, np.ones(200), better, np.ones(200)], axis=1)
    worse_interval = statistics.bootstrap_corpus_score(worse_counts, due.f1)
    better_interval = statistics.bootstrap_corpus_score(better_counts, due.f1)

    difference = statistics.bootstrap_corpus_score(better_counts, due.f1, other_counts=worse_counts)

    assert better_interval.low < worse_interval.high and difference.low > 0
    assert difference.value == pytest.approx(better_interval.value - worse_interval.value)


@pytest.mark.parametrize(
    ("table", "options", "complaint"),
    [
        (np.zeros((0, 4)), {}, "at least one example"),
        (np.zeros(4), {}, "at least one example"),
        (np.full((2, 4), np.nan), {}, "number 0 isn't"),
        (np.zeros((2, 4)), {"other_counts": np.zeros((3, 4))}, "tables of one shape"),
        (np.zeros((2, 4)), {"strata": ["a"]}, "one stratum for each score: got 1 for 2"),
    ],
)
def test_invalid_counts_raise(table, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        statistics.bootstrap_corpus_score(table, due.f1, **options)
