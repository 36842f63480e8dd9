"""Training conversations: correct, within their budget, and independent if requested."""

from collections import Counter
from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeylib.data import synthetic
from monkeylib.data.synthetic import scenes
from monkeylib.data.synthetic.tasks import training_turns
from monkeylib.prompts import SEPARATOR

NUMBERS = st.integers(0, 10_000_000)

# Kinds of questions whose answers appear in other questions about the same object or sign.
LEAKING = ("read", "colour", "where", "what")


@cache
def sample_of(number):
    """A sample of the training split."""
    return synthetic.make_sample(number, "train")


def question_in(prompt):
    """Return the question in a prompt."""
    return prompt.strip().removesuffix("Answer:").strip()


@settings(max_examples=60, deadline=None)
@given(NUMBERS, st.floats(0.3, 1), st.integers(1, 400), st.floats(0, 1))
def test_training_turns_are_correct_and_keep_to_their_budget(number, scale, budget, detailed):
    sample = sample_of(number % 6)
    turns = training_turns(sample, np.random.default_rng(number), scale, budget, detailed)
    answer_of = {q.question: q.answer for q in sample.questions}

    assert turns and all(prompt.startswith(SEPARATOR) for prompt, _ in turns)

    # The first turn may exceed the budget: at least one is always returned.
    assert sum(len(answer) + len(prompt) // 2 for prompt, answer in turns[1:]) <= budget

    for prompt, answer in turns:
        if prompt.endswith("Answer: "):
            assert answer == answer_of[question_in(prompt)]
        else:
            assert answer == (sample.detailed_caption if "detailed" in prompt else sample.caption)


@settings(max_examples=60, deadline=None)
@given(NUMBERS, st.floats(0.3, 1), st.floats(0, 1), st.booleans())
def test_independent_question_follows_neither_transcript_nor_question_about_the_same_object(
    number, scale, detailed, captions
):
    sample = sample_of(number % 40)
    rng = np.random.default_rng(number)
    turns = training_turns(sample, rng, scale, 10_000, detailed, captions, independent=True)

    has_transcript = any("detailed" in prompt for prompt, _ in turns)

    assert not (has_transcript and any(prompt.endswith("Answer: ") for prompt, _ in turns))

    questions = [question_in(prompt) for prompt, _ in turns]
    boxes = [q.answer_box for q in sample.questions if q.question in questions and q.kind in LEAKING]
    assert len(boxes) == len(set(boxes)), "two questions about one sign or object"


def test_questions_name_signs_mostly_by_their_colour_if_requested():
    num_by_colour = 0
    num_questions = 0
    for number in range(120):
        sample = synthetic.make_sample(number, "train", (96, 96), "scene_text")
        rng = np.random.default_rng(number)
        turns = training_turns(sample, rng, 1, 10_000, 0.0, False, independent=True, by_colour=0.7)
        assert sorted(answer for _, answer in turns) == sorted(s.text.string for s in sample.signs)

        # A single sign is named by its colour or not at all, whatever the setting.
        if len(sample.signs) > 1:
            num_questions += len(turns)
            num_by_colour += sum(any(colour in prompt for colour in scenes.COLOURS) for prompt, _ in turns)

    assert 0.7 * num_questions < num_by_colour < 0.98 * num_questions


def test_questions_about_illegible_text_are_mostly_skipped(samples_by_split):
    selected = Counter()
    available = Counter()
    for number, sample in enumerate(samples_by_split["train"]):
        text_sizes = {question.question: question.text_size for question in sample.questions}
        available.update(text_sizes.values())
        # At half the scale, as in one view of the full image.
        turns = training_turns(sample, np.random.default_rng(number), 0.5, 10_000, 0.0)
        selected.update(text_sizes.get(question_in(prompt), "caption") for prompt, _ in turns)

    assert 0 < selected["fine"] < 0.2 * available["fine"]
    assert selected["large"] == available["large"]
