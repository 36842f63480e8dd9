"""Scores of one answer: against the goldens, by their properties, and on hostile input."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeylib.evaluation.metrics import text
from tests.support.hostile_texts import HOSTILE_TEXTS

METRICS = json.loads((Path(__file__).parents[2] / "goldens" / "metrics.json").read_text())
SCORES = [
    text.exact_match,
    text.anls,
    text.relaxed_accuracy,
    lambda prediction, answers: text.vqa_accuracy(prediction, list(answers) * 10),
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


@pytest.mark.parametrize(
    ("prediction", "counts", "expected"),
    [
        ("yes", {"yes": 10}, 1.0), ("yes", {"yes": 4, "no": 6}, 1.0), ("yes", {"yes": 3, "no": 7}, 0.9),
        ("yes", {"yes": 2, "no": 8}, 0.6), ("yes", {"yes": 1, "no": 9}, 0.3), ("maybe", {"yes": 10}, 0.0),
        ("two", {"two": 10}, 1.0), ("The cat", {"the cat": 10}, 1.0), ("yes!", {"Yes": 10}, 1.0),
        ("dont know", {"don't know": 10}, 1.0), ("." * 40 + "x", {"x": 10}, 1.0),
    ],
)  # fmt: skip
def test_vqa_accuracy(prediction, counts, expected):
    # One answer for each annotator.
    answers = [answer for answer, count in counts.items() for _ in range(count)]
    assert text.vqa_accuracy(prediction, answers) == pytest.approx(expected)


def test_vqa_accuracy_with_too_few_annotators_raises():
    with pytest.raises(ValueError, match="at least 4 annotators.*got 1"):
        text.vqa_accuracy("yes", ["yes"])


@pytest.mark.parametrize("item", METRICS["vqa_process_only"], ids=lambda item: item["text"])
def test_vqa_normalisation_equals_the_official_one(item):
    assert text.remove_vqa_punctuation(item["text"]) == item["punctuation"]
    assert text.normalise_vqa_words(item["text"]) == item["digit_article"]
    assert text.normalise_vqa(item["text"]) == item["both"]


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


# --- multiple choice ------------------------------------------------------------------------------

ANIMALS = ["the fox", "the hare", "the arctic hare", "none of the above"]


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("B", 1), ("b", 1), ("(B)", 1), ("B.", 1), ("B)", 1), (" B: ", 1), ("[B]", None), ("E", None),
        ("The answer is C.", 2), ("Answer: D", 3), ("the correct answer is (a)", 0), ("B. the hare", 1),
        ("C) because it is white", 2), ("I think the answer is B because it eats grass.", 1),
        ("the hare", 1), ("The Hare.", 1), ("It is the hare", 1), ("the arctic hare", 2),
        ("That is the arctic hare, of course", 2), ("the fox or the hare", None), ("a fox", None),
        ("harebell", None), ("", None), ("A fox runs", None), ("foxes", None),
    ],
)  # fmt: skip
def test_choice_is_parsed_from_free_text(prediction, expected):
    assert text.parse_choice(prediction, ANIMALS) == expected


@pytest.mark.parametrize(
    ("prediction", "options", "expected"),
    [
        ("A", ["C", "A", "B"], 1),  # labels drawn into a diagram: the text wins over the letter
        ("A.", ["C", "A", "B"], 1),
        ("D", ["C", "A", "B"], None),
        ("2", ["1", "2", "12"], 1),
        ("12", ["1", "2", "12"], 2),
        ("it has 12 legs", ["1", "2", "12"], 2),
        ("B", ["same", "same"], 1),
        ("same", ["same", "same"], 0),
        ("c++ (old)", ["c", "c++ (old)"], 1),
    ],
)
def test_choices_may_be_letters_numbers_or_marks(prediction, options, expected):
    assert text.parse_choice(prediction, options) == expected


@given(
    st.lists(st.text(st.sampled_from("abcXY12 .'-"), min_size=1, max_size=8), min_size=1, max_size=5),
    st.data(),
)
def test_letter_and_text_of_a_choice_name_it(options, data):
    number = data.draw(st.integers(0, len(options) - 1))
    normalised = [text.normalise(option) for option in options]

    # Only a text that no other choice has can name one.
    if normalised.count(normalised[number]) == 1:
        assert text.parse_choice(options[number], options) == number

    # A choice that is a letter itself wins over the letter of its position.
    letter = chr(ord("A") + number)
    if letter.lower() not in normalised:
        assert text.parse_choice(letter, options) == number
        assert text.parse_choice(f"({letter})", options) == number

    assert text.parse_choice("zebra", options) is None


@pytest.mark.parametrize(
    ("meta", "sentence"),
    [
        ({}, "needs the entry 'choices'"),
        (None, "needs the entry 'choices'"),
        ({"choices": ["a", "b"]}, "needs the entry 'answer'"),
        ({"choices": "ab", "answer": 0}, "choices must be a list of texts: got 'ab'"),
        ({"choices": ["a", "b"], "answer": 2}, "a number from 0 to 1: got 2"),
        ({"choices": ["a", "b"], "answer": "0"}, "a number from 0 to 1: got '0'"),
        ({"choices": ["a", 5], "answer": 0}, "must be a string: got int"),
        ({"choices": [], "answer": 0}, "a number from 0 to -1|non-empty"),
    ],
)
def test_multiple_choice_without_valid_choices_raises(meta, sentence):
    with pytest.raises(ValueError, match=sentence):
        text.multiple_choice("a", ["a"], meta)
