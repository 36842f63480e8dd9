"""Denotation accuracy of WikiTableQuestions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeylib.evaluation.metrics import wtq
from monkeylib.evaluation.metrics.wtq import denotation_accuracy

cells = st.text(st.sampled_from('abcA 0123.-[]()†é"'), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ana María", "ana maria"), ("“Help!”", "help!"), ("the university†‡*", "the university"),
        ("Oslo[1][2]", "oslo"), ("Oslo [note 3]", "oslo"), ("[citation]", "[citation]"), ("[12]", ""),
        ("Rome (x)", "rome"), ("Rome (a) (b)", "rome"), ("Rome(Lazio)", "rome(lazio)"), ("(x)", "(x)"),
        ("St.  Louis.", "st. louis"), ("1912–13", "1912-13"), ("a [b", "a [b"), ("a (b (c)", "a"),
        ('"x" and "y"', '"x" and "y"'), ("a\u00a0b", "a b"), ('"A (1)†"[2]', "a"), ("", ""), (".", ""),
    ],
)  # fmt: skip
def test_strings_are_normalised_as_by_the_official_evaluator(text, expected):
    assert wtq.normalise(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        # Values of the official evaluator's own examples: quotation marks, citations, close numbers, order.
        ("university of california‘ | university of virginia†‡* | 10.0000001",
         ["university of california’", "university of virginia", "10"], 1),
        ("aaa | bbb", ["bbb"], 0), ("bbb", ["aaa", "bbb"], 0), ("bbb|aaa", ["aaa", "bbb"], 1),
        ("aaa | aaa", ["aaa"], 1), ("3.0", ["3"], 1), ("3", ["three"], 0), ("1,000", ["1000"], 0),
        ("2008-03-14", ["2008-3-14"], 1), ("2008-03-xx", ["2008-3-xx"], 1), ("2008-xx-xx", ["2008"], 1),
        ("2008-13-01", ["2008-13-1"], 0), ("xx-xx-xx", ["xx-xx-xx"], 1), ("1e400", ["1e400"], 1),
        ("nan", ["nan"], 1),
        ("Oslo.", ["oslo"], 1), ("Oslo", ["Bergen"], 0), ("", [""], 1), ("", ["x"], 0), ("|", ["x"], 0),
    ],
)  # fmt: skip
def test_denotation_accuracy(prediction, answers, expected):
    assert denotation_accuracy(prediction, answers) == expected


@given(st.lists(cells, min_size=1, max_size=4))
def test_denotation_is_a_set(values):
    answers = [value for value in values if value.strip()]
    if answers:
        # Neither order nor repetition counts.
        assert denotation_accuracy(" | ".join(reversed(answers)), answers) == 1
        assert denotation_accuracy(" | ".join([*answers, answers[0]]), answers) == 1


@given(cells, cells)
def test_single_values_are_symmetric(first, second):
    assert denotation_accuracy(first, [second]) == denotation_accuracy(second, [first])
