"""F1 of the fields of DeepForm and Kleister Charity."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeylib.evaluation.metrics import due

values = st.lists(st.sampled_from(["ab", "Ab", "c", "d e", "5"]), min_size=1, max_size=4)


def test_order_and_case_of_values_do_not_count():
    """Four values in three fields, as in the official evaluator's test."""
    answers = [["2017-02-24"], ["Ohio"], ["Dennis W. Wells", "Lsi Industries Inc."]]
    metas = [{}, {}, {}]

    predictions = ["2017-02-24", "Ohio", "Lsi Industries Inc. | DEnnis W. Wells"]
    counts = due.count_corpus(predictions, answers, metas).sum(axis=0)

    assert counts.tolist() == [4, 4, 4, 4]
    assert due.f1(counts) == 1

    # One of two values of the last field is wrong: three of four are correct and recalled.
    predictions[2] = "Lsi Industries Inc. | D. Wells"
    counts = due.count_corpus(predictions, answers, metas).sum(axis=0)
    assert counts.tolist() == [3, 4, 3, 4]
    assert due.f1(counts) == pytest.approx(3 / 4)


@pytest.mark.parametrize(
    ("prediction", "answers", "variants", "expected"),
    [
        ("$4,500", ["4500.00"], [["$4,500"]], [1, 1, 1, 1]), ("$4,500", ["4500.00"], None, [0, 1, 0, 1]),
        ("a | a", ["a"], None, [1, 2, 1, 1]), ("a", ["a", "a"], None, [1, 1, 1, 2]),
        ("", ["a"], None, [0, 0, 0, 1]),
        (" | a |", ["A "], None, [1, 1, 1, 1]), ("x | y", ["a"], None, [0, 2, 0, 1]),
    ],
)  # fmt: skip
def test_values_of_a_field_are_counted(prediction, answers, variants, expected):
    assert due.count_values(prediction, answers, {"variants": variants}).tolist() == expected


@given(values, values)
def test_f1_is_symmetric_and_between_0_and_1(first, second):
    forward = due.f1(due.count_values(" | ".join(first), second))
    backward = due.f1(due.count_values(" | ".join(second), first))

    assert 0 <= forward <= 1
    assert forward == pytest.approx(backward)
    assert due.f1(due.count_values(" | ".join(first), first)) == 1


@given(values, values)
def test_another_correct_value_never_lowers_f1(predicted, answers):
    # "new" is expected in both cases, and predicted only in the second.
    answers = [*answers, "new"]
    before = due.f1(due.count_values(" | ".join(predicted), answers))
    after = due.f1(due.count_values(" | ".join([*predicted, "new"]), answers))

    assert after >= before


def test_variants_may_be_empty():
    assert due.count_values("a", ["a"], {"variants": []})[0] == 1


@pytest.mark.parametrize("variants", ["a", [["x"], ["y"]], ["x"], [[5]]])
def test_variants_that_do_not_fit_the_values_raise(variants):
    with pytest.raises(ValueError, match="a list of variants for each|variant must be a string: got int"):
        due.count_values("a", ["a"], {"variants": variants})
