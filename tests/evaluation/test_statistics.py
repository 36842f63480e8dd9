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
    half = 1.96 * scores.std() / np.sqrt(len(scores))
    assert interval.value == pytest.approx(scores.mean()) and interval.n == 400
    assert interval.low == pytest.approx(scores.mean() - half, abs=0.003)
    assert interval.high == pytest.approx(scores.mean() + half, abs=0.003)
    assert statistics.bootstrap_interval(scores) == interval
    assert statistics.bootstrap_interval(scores, seed=1) != interval


def test_clusters_widen_the_interval_of_dependent_scores():
    scores = np.repeat(np.random.default_rng(0).integers(0, 2, 50), 8).astype(float)
    alone = statistics.bootstrap_interval(scores)
    clustered = statistics.bootstrap_interval(scores, clusters=np.repeat(np.arange(50), 8).tolist())
    ratio = (clustered.high - clustered.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(np.sqrt(8), rel=0.15)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_interval_contains_the_mean(scores):
    interval = statistics.bootstrap_interval(scores, resamples=50)
    assert interval.low <= interval.value <= interval.high


def test_paired_difference_is_significant_where_separate_intervals_overlap():
    hard = np.random.default_rng(2).integers(0, 2, 200).astype(float)
    easier = np.maximum(hard, np.arange(200) % 20 == 0)
    one, other = (statistics.bootstrap_interval(run) for run in (easier, hard))
    assert one.low < other.high  # the intervals overlap
    first, second = (np.stack([run, np.ones_like(run)], axis=1) for run in (easier, hard))
    difference = statistics.bootstrap_corpus_score(first, statistics.mean, other_counts=second)
    assert difference.low > 0 and difference.value == pytest.approx(one.value - other.value)
    assert statistics.bootstrap_corpus_score(second, statistics.mean, other_counts=first).high < 0


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
    right = random.integers(0, 2, 300)
    table = np.stack([right, np.ones(300), right, 1 + (random.random(300) < 0.3)], axis=1)
    interval = statistics.bootstrap_corpus_score(table, due.f1)
    drawn = [due.f1(table[random.integers(0, 300, 300)].sum(axis=0)) for _ in range(2000)]
    assert interval.value == due.f1(table.sum(axis=0)) and interval.n == 300
    assert interval.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.01)
    assert interval.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.01)


def test_two_runs_are_resampled_together():
    random = np.random.default_rng(4)
    right = random.integers(0, 2, 200)
    better = np.minimum(1, right + (np.arange(200) % 20 == 0))
    tables = [np.stack([r, np.ones(200), r, np.ones(200)], axis=1) for r in (better, right)]
    one, other = (statistics.bootstrap_corpus_score(table, due.f1) for table in tables)
    difference = statistics.bootstrap_corpus_score(tables[0], due.f1, other_counts=tables[1])
    assert one.low < other.high and difference.low > 0
    assert difference.value == pytest.approx(one.value - other.value)


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
