"""F1 of the fields of DeepForm and Kleister Charity."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeylib.evaluation.metrics import due

values = st.lists(st.sampled_from(["ab", "Ab", "c", "d e", "5"]), min_size=1, max_size=4)


def test_order_and_case_of_values_do_not_count():
    """Four values in three fields as in the official evaluator's test, which case doesn't spoil here."""
    said = ["2017-02-24", "Ohio", "Lsi Industries Inc. | DEnnis W. Wells"]
    gold = [["2017-02-24"], ["Ohio"], ["Dennis W. Wells", "Lsi Industries Inc."]]
    table = due.count_corpus(said, gold, [{}, {}, {}])
    assert table.sum(axis=0).tolist() == [4, 4, 4, 4] and due.f1(table.sum(axis=0)) == 1
    wrong = due.count_corpus([*said[:2], "Lsi Industries Inc. | D. Wells"], gold, [{}, {}, {}]).sum(axis=0)
    assert wrong.tolist() == [3, 4, 3, 4] and due.f1(wrong) == pytest.approx(3 / 4)


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
def test_f1_is_symmetric_and_between_0_and_1(one, other):
    there = due.f1(due.count_values(" | ".join(one), other))
    back = due.f1(due.count_values(" | ".join(other), one))
    assert 0 <= there <= 1 and there == pytest.approx(back)
    assert due.f1(due.count_values(" | ".join(one), one)) == 1


@given(values, values)
def test_another_correct_value_never_lowers_f1(said, gold):
    before = due.f1(due.count_values(" | ".join(said), [*gold, "new"]))
    assert due.f1(due.count_values(" | ".join([*said, "new"]), [*gold, "new"])) >= before


@pytest.mark.parametrize("variants", [[], "a", [["x"], ["y"]], ["x"], [[5]]])
def test_variants_that_do_not_fit_the_values_raise(variants):
    if variants == []:
        assert due.count_values("a", ["a"], {"variants": variants})[0] == 1
        return
    with pytest.raises(ValueError, match="a list of variants for each|variant must be a string: got int"):
        due.count_values("a", ["a"], {"variants": variants})
