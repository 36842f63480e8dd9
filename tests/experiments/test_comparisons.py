"""Paired differences between models, verdicts and sentences."""

import pytest

from monkeylib.experiments import comparisons
from tests.support.prediction_rows import prediction, write_predictions


@pytest.fixture()
def files(tmp_path):
    """Two models on twenty questions: the first answers 15 of them correctly, the second 5."""
    correct = {"first": 15, "second": 5}
    return {
        (model, "nano-fine"): write_predictions(
            tmp_path / model, [prediction(n, n < count) for n in range(20)]
        )
        for model, count in correct.items()
    }


def test_differences_are_paired_by_question(files):
    (row,) = comparisons.paired_differences(files, "first", ["second"])
    assert (row["model"], row["against"], row["split"]) == ("first", "second", "nano-fine")
    assert (row["metric"], row["n"]) == ("exact_match", 20)
    assert row["difference"] == 0.5 and 0.1 < row["low"] < 0.5 < row["high"] < 0.8

    # The other way round, only the sign changes.
    (reverse,) = comparisons.paired_differences(files, "second", ["first"])
    assert reverse["difference"] == -0.5 and reverse["high"] < 0


EXCLUDES = "which excludes 0"
INCLUDES = "which includes 0: no significant difference"


@pytest.mark.parametrize(
    ("numbers", "order", "interval", "verdict"),
    [
        ((0.5, 0.2, 0.8), "50.0 points above", f"+20.0 to +80.0, {EXCLUDES}", "better"),
        ((-0.1, -0.2, -0.05), "10.0 points below", f"-20.0 to -5.0, {EXCLUDES}", "worse"),
        ((0.1, -0.1, 0.3), "10.0 points above", f"-10.0 to +30.0, {INCLUDES}", comparisons.NOT_SIGNIFICANT),
        ((0.0, 0.0, 0.0), "level with", f"+0.0 to +0.0, {INCLUDES}", comparisons.NOT_SIGNIFICANT),
    ],
)
def test_sentence_states_the_verdict_of_the_interval(numbers, order, interval, verdict):
    row = dict(zip(("difference", "low", "high"), numbers, strict=True))
    row |= {"model": "monkey", "against": "base", "split": "nano-caption", "metric": "cider_d"}

    assert comparisons.describe_difference(row, {"monkey": "Monkey"}) == (
        f"Nano, captions, CIDEr-D: Monkey is {order} base "
        f"(95 % interval of the paired difference: {interval})."
    )
    assert comparisons.verdict(row) == verdict


def test_main_scores_and_groups_are_selected_from_a_score_table():
    row = {"model": "m", "split": "nano-fine", "group": "all", "metric": "exact_match", "value": 0.5}
    row |= {"low": 0.4, "high": 0.625, "n": 7}
    other_metric = row | {"metric": "anls", "value": 0.9}
    group_row = row | {"group": "document", "value": 0.25}

    assert comparisons.main_scores([row, other_metric, group_row]) == [row]
    assert comparisons.main_scores([row, other_metric, group_row], group=None) == [row, group_row]

    # A line for each group, with a column for each model.
    other_model = row | {"model": "other", "value": 1.0}
    assert comparisons.scores_by_group([row, other_model, other_metric, group_row]) == [
        {"split": "nano-fine", "group": "all", "n": 7, "m": "50.0 (40.0–62.5)", "other": "100.0 (40.0–62.5)"},
        {"split": "nano-fine", "group": "document", "n": 7, "m": "25.0 (40.0–62.5)"},
    ]
