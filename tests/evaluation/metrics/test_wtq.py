"""Denotation accuracy of WikiTableQuestions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeylib.evaluation.metrics import wtq
from monkeylib.evaluation.metrics.wtq import denotation_accuracy, denotation_accuracy_due

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
        ("17", ["17 years"], 0), ("100000", ["100,000"], 0), ("1995-01-26", ["January 26, 1995"], 0),
        ("2008-03-14", ["2008-3-14"], 1), ("2008-03-xx", ["2008-3-xx"], 1), ("2008-xx-xx", ["2008"], 1),
        ("2008-13-01", ["2008-13-1"], 0), ("xx-xx-xx", ["xx-xx-xx"], 1), ("1e400", ["1e400"], 1),
        ("nan", ["nan"], 1),
        ("Oslo.", ["oslo"], 1), ("Oslo", ["Bergen"], 0), ("", [""], 1), ("", ["x"], 0), ("|", ["x"], 0),
    ],
)  # fmt: skip
def test_answers_are_compared_as_written_by_due(prediction, answers, expected):
    assert denotation_accuracy_due(prediction, answers) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "canonical", "expected"),
    [
        # Values and canonical forms as the official tagged files have them.
        ("100000", ["100,000"], ["100000.0"], 1), ("17", ["17 years"], ["17.0"], 1),
        ("17 years", ["17 years"], ["17.0"], 1), ("17 Years.", ["17 years"], ["17.0"], 1),
        ("18 years", ["17 years"], ["17.0"], 0), ("100,000", ["100,000"], ["100000.0"], 1),
        ("1995-01-26", ["January 26, 1995"], ["1995-01-26"], 1),
        ("1995", ["January 26, 1995"], ["1995-01-26"], 0),
        ("92.1", ["092.1"], ["92.1"], 1), ("20", ["20 km walk"], ["20 km walk"], 0),
        ("2004|2006|2005", ["2004", "2005", "2006"], ["2004.0", "2005.0", "2006.0"], 1),
        ("11", ["0011 1001"], ["0011-xx-xx"], 1), ("5", ["five"], ["5.0"], 1), ("5", ["five"], ["five"], 0),
        # The prediction has no canonical forms: it is read as it is written.
        ("100,000", ["100000"], ["100000.0"], 0),
    ],
)  # fmt: skip
def test_answers_are_compared_by_their_canonical_forms(prediction, answers, canonical, expected):
    assert denotation_accuracy(prediction, answers, {"canonical": canonical}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100,000", "100000"), ("1,146,000.5", "1146000.5"), ("17 years", "17"), ("1 year", "1"),
        ("2.5 hours", "2.5"),
        ("January 26, 1995", "1995-01-26"), ("26 January 1995", "1995-01-26"), ("Sept. 3 2001", "2001-09-03"),
        ("May 1995", "1995-05-xx"), ("3 May", "xx-05-03"), ("June 7", "xx-06-07"),
        # Neither numbers nor dates.
        ("12,5", "12,5"), ("20 km walk", "20 km walk"), ("50s", "50s"), ("marble 12", "marble 12"),
        ("17", "17"),
        ("5:19.35", "5:19.35"), ("185.07 km/h (115 mph)", "185.07 km/h (115 mph)"), ("", ""),
    ],
)  # fmt: skip
def test_plain_numbers_and_dates_have_a_canonical_form(text, expected):
    assert wtq.derive_canonical(text) == expected

    # An example without official forms is scored by the derived ones.
    assert denotation_accuracy(expected, [text]) == 1


@pytest.mark.parametrize("canonical", [[], ["1", "2"], "17.0"])
def test_canonical_forms_that_do_not_fit_the_answers_raise(canonical):
    with pytest.raises(ValueError, match="a canonical form for each of the 1 answers"):
        denotation_accuracy("17", ["17 years"], {"canonical": canonical})


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
