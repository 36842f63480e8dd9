"""Which choice an answer in free text means."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeylib.evaluation.metrics import choices, text

GASES = ["hydrogen", "helium", "carbon"]
ANIMALS = ["the fox", "the hare", "the arctic hare", "none of the above"]


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("B", 1), ("b", 1), ("(B)", 1), ("B.", 1), ("B)", 1), (" B: ", 1), ("[B]", 1), ("E", None),
        ("The answer is C.", 2), ("Answer: D", 3), ("the correct answer is (a)", 0), ("B. the hare", 1),
        ("C) because it is white", 2), ("I think the answer is B because it eats grass.", 1),
        ("the hare", 1), ("The Hare.", 1), ("It is the hare", 1), ("the arctic hare", 2),
        ("That is the arctic hare, of course", 2), ("the fox or the hare", None), ("a fox", None),
        ("harebell", None), ("", None), ("A fox runs", None), ("foxes", None),
    ],
)  # fmt: skip
def test_choice_is_parsed_from_free_text(prediction, expected):
    assert choices.parse_choice(prediction, ANIMALS) == expected


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
    assert choices.parse_choice(prediction, options) == expected


@given(
    st.lists(st.text(st.sampled_from("abcXY12 .'-"), min_size=1, max_size=8), min_size=1, max_size=5),
    st.data(),
)
def test_letter_and_text_of_a_choice_name_it(options, data):
    number = data.draw(st.integers(0, len(options) - 1))
    normalised = [text.normalise(option) for option in options]

    # Only a text that no other choice has can name one.
    if normalised.count(normalised[number]) == 1:
        assert choices.parse_choice(options[number], options) == number

    # A choice that is a letter itself wins over the letter of its position.
    letter = chr(ord("A") + number)
    if letter.lower() not in normalised:
        assert choices.parse_choice(letter, options) == number
        assert choices.parse_choice(f"({letter})", options) == number

    assert choices.parse_choice("zebra", options) is None


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
        choices.multiple_choice("a", ["a"], meta)


@pytest.mark.parametrize(
    "prediction",
    [
        # marks, Markdown, LaTeX, full-width characters
        "**B**", "*B*", "__B__", "_B_", "`B`", r"\boxed{B}", r"$\boxed{B}$", r"\(B\)",
        r"\[\boxed{\text{B}}\]",
        "'B'", '"B"', "<B>", "{B}", "[B]", "“B”", "「B」", "（B）", "Ｂ", "B。", "**(B).**", "#B",
        "<answer>B</answer>",
        # lead-ins
        "Option B", "Choice (B)", "option b", "I think B", "I think it's B", "It is B.", "My answer is B!",
        "answer = B", "Ans: B", "Answer:\nB", "**Answer:** B", "**Answer: B**",
        "The correct answer is **B**.",
        "Final answer: B", "So the answer is B.", "The answer is option (B).", "I'd go with B", "I choose B",
        "答案是B", "正确答案：B", "答案为：B。", "选B",
        # the letter first, then more
        "**B.** helium", "B - helium", "[B] helium", "B, because it is light", "B\nBecause it is light",
        # in a sentence
        "B is correct", "I believe option B is correct.", "The best answer is B, since it floats",
        "A is wrong; the answer is B", "Not A. The answer is B", "Option B is the right one",
        # by text, beside one that is negated
        "not hydrogen but helium", "helium, not hydrogen", "It is helium rather than hydrogen",
        "The gas isn't hydrogen; it is helium",
    ],
)  # fmt: skip
def test_choice_is_read_as_models_write_it(prediction):
    assert choices.parse_choice(prediction, GASES) == 1


@pytest.mark.parametrize(
    "prediction",
    [
        "not hydrogen", "It isn't helium", "It cannot be helium", "I do not think it is helium",
        "there is no helium", "not B", "It is not B", "The answer is not B", "B is wrong", "不是B",
        "I don't think B is correct", "Option B is incorrect", "A and B", "A or B", "A, B", "A) or B)",
        "A. or B.", "The answer is B or C",
        "A&B", "A / B", "both A and B", "neither A nor B", "hydrogen or helium", "The answer is A or B",
        "A fox runs", "A good gas", "The answer is A dog", "The answer is A's", "Vitamin B", "B+", "C++", "E",
    ],
)  # fmt: skip
def test_no_choice_is_read_from_negations_several_letters_and_articles(prediction):
    assert choices.parse_choice(prediction, GASES) is None


@pytest.mark.parametrize(
    "prediction",
    [
        "answer is " * 3000,
        "(" * 20_000 + "B",
        "hydrogen " * 3000,
        "not it is " * 3000 + "helium",
        "A, " * 5000,
    ],
    ids=lambda prediction: prediction[:9],
)
def test_long_predictions_are_read_quickly(prediction):
    started = time.process_time()
    choices.parse_choice(prediction, GASES)
    assert time.process_time() - started < 2
