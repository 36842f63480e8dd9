"""Scores of one answer: against the goldens, by their properties, and on hostile input."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeylib.evaluation.metrics import text, vqa
from tests.support.hostile_texts import HOSTILE_TEXTS

METRICS = json.loads((Path(__file__).parents[2] / "goldens" / "metrics.json").read_text())
SCORES = [
    text.exact_match,
    text.anls,
    text.relaxed_accuracy,
    lambda prediction, answers: vqa.vqa_accuracy(prediction, list(answers) * 10),
]
answer_texts = st.text(st.sampled_from("abcdeABC 0123.,%-é"), max_size=12)

# --- against the goldens --------------------------------------------------------------------------

STATED = {"anls": text.anls, "relaxed_accuracy": text.relaxed_accuracy}


def _stated(item):
    """Return the correct value where the goldens state one; ChartQA tolerates 5 % of years as well."""
    if item["bug"] == "years_tolerated" or (item["bug"] and item["sane"] is None):
        return None
    return item["official"] if item["sane"] is None else item["sane"]


@pytest.mark.parametrize(
    ("metric", "item"),
    [(name, item) for name in STATED for item in METRICS[name]["items"] if _stated(item) is not None],
    ids=lambda value: value if isinstance(value, str) else value["note"],
)
def test_scores_are_correct_where_the_goldens_state_a_value(metric, item):
    assert STATED[metric](item["answer"], item["annotation"]) == pytest.approx(_stated(item))


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("3.5", ["3.5"], 1), ("35", ["3.5"], 0), ("cat.", ["cat"], 1), ("U.S.A.", ["u.s.a."], 1),
        ("25", ["5"], 0), ("a  b\n", ["a b"], 1), ("not true", ["true"], 0), ("anything", [""], 0),
        ("", ["x"], 0), (".", [""], 0), ("dog", ["cat", "dog"], 1), ("STRASSE", ["straße"], 1),
        ("dog", "dog", 1),
    ],
)  # fmt: skip
def test_exact_match(prediction, answers, expected):
    assert text.exact_match(prediction, answers) == expected


def test_character_error_counts_edits_per_character():
    assert text.character_error("stop", ["stop"]) == 0
    assert text.character_error("STOP", ["SHOP"]) == 0.25
    assert text.character_error("stopstop", ["stop"]) == 1.0
    assert text.character_error("a  b", ["zzz", "a b"]) == 0
    with pytest.raises(ValueError, match="empty answer"):
        text.character_error("x", [" "])


# --- properties and hostile input -----------------------------------------------------------------


@given(answer_texts, st.lists(answer_texts, min_size=1, max_size=4))
def test_scores_lie_between_0_and_1_and_an_accepted_answer_scores_1(prediction, answers):
    for metric in SCORES:
        assert 0 <= metric(prediction, answers) <= 1
        assert metric(answers[0], answers[:1]) == 1


@given(answer_texts, st.lists(answer_texts, min_size=1, max_size=4), answer_texts)
def test_another_accepted_answer_never_lowers_a_score(prediction, answers, more):
    for metric in (text.exact_match, text.anls, text.relaxed_accuracy):
        assert metric(prediction, [*answers, more]) >= metric(prediction, answers)


@given(answer_texts, answer_texts)
def test_anls_and_exact_match_are_symmetric(first, second):
    assert text.anls(first, [second]) == text.anls(second, [first])
    assert text.exact_match(first, [second]) == text.exact_match(second, [first])


@pytest.mark.parametrize("hostile", HOSTILE_TEXTS, ids=lambda hostile: ascii(hostile[:12]))
def test_hostile_strings_have_a_score(hostile):
    for metric in SCORES:
        assert metric("plain", [hostile]) in (0, 1)
        assert metric(hostile, [hostile]) == 1
    assert text.cider_d([hostile, "a dog"], [["a cat", hostile], ["a dog"]])[1] > 0


# --- blanks, commas, and scorers that differ ------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("a  b", ["a b"], 1), ("a\nb", ["a b"], 1), ("a b", [" A\t B "], 1),
        ("ITC Limited", ["itc limited"], 1),
        ("ab", ["ac"], 0.5), ("abc", ["abd", "x"], 2 / 3), ("abc", ["xyz"], 0),
    ],
)  # fmt: skip
def test_anls_takes_runs_of_blanks_as_one(prediction, answers, expected):
    assert text.anls(prediction, answers) == pytest.approx(expected)

    # By the paper's formula, a similarity of exactly one half is too little.
    assert text.anls_paper(prediction, answers) == pytest.approx(0 if expected == 0.5 else expected)


@pytest.mark.parametrize(
    ("prediction", "answer", "expected", "pix2struct"),
    [
        # A comma groups three digits; else it makes no number.
        ("1,990", "1990", 1, 0), ("12,000", "12000", 1, 0), ("-1,234.5", "-1234.5", 1, 0),
        ("12,000", "12,000", 1, 1),
        ("1,2,3", "12,5", 0, 0), ("12,5", "125", 0, 0), ("1,23", "123", 0, 0), ("1234,567", "1234567", 0, 0),
        (",123", "123", 0, 0), ("12,5", "12,5", 1, 1),
        # Percent signs, blanks, zero, rounding.
        ("5 %", "5%", 1, 1), ("5%", "0.05", 1, 1), (" 7", "7", 1, 1), ("0.0", "0", 1, 0),
        (" yes", "Yes", 1, 0),
        ("95", "100", 1, 1), ("94.9", "100", 0, 0),
    ],
)  # fmt: skip
def test_relaxed_accuracy_reads_numbers(prediction, answer, expected, pix2struct):
    assert text.relaxed_accuracy(prediction, [answer]) == expected
    assert text.relaxed_accuracy_pix2struct(prediction, [answer]) == pix2struct


@pytest.mark.parametrize(
    ("prediction", "answer", "script", "lmms_eval"),
    [
        ("yes", "yes", 1, 1), ("Yes", "yes", 0, 1), ("yes.", "yes", 0, 1), (" yes\n", "yes", 0, 1),
        ("t-shirt", "tshirt", 0, 1), ("Yes, it is", "yes", 0, 0), ("red  car", "red car", 0, 0),
    ],
)  # fmt: skip
def test_gqa_is_compared_verbatim_or_without_punctuation(prediction, answer, script, lmms_eval):
    assert text.exact_match_verbatim(prediction, [answer]) == script
    assert text.exact_match_without_punctuation(prediction, [answer]) == lmms_eval
