"""Captions at several levels of detail: true of their images, nested, and the same each time."""

import re
from collections import Counter
from typing import get_args

import numpy as np
import pytest

from monkeylib.data import synthetic
from monkeylib.data.synthetic import label_levels, scenes
from monkeylib.data.synthetic.label_levels import LEVELS, caption_at_level, level_sentences
from monkeylib.profiles.schema import Profile

NUMBER_OF_WORD = {word: number for number, word in enumerate(scenes.NUMBERS)}


@pytest.fixture(scope="module")
def samples():
    """Training samples of every family."""
    samples = [synthetic.make_sample(number, "train") for number in range(120)]
    assert {sample.family for sample in samples} == set(synthetic.FAMILIES)
    return samples


def drawn_in(sample):
    """Return (name, location, colour) of each object and sign."""
    drawn = [(item.name, item.location, item.colour) for item in sample.objects]
    return drawn + [("sign", sign.location, sign.colour) for sign in sample.signs]


def test_profile_names_every_level():
    names = get_args(Profile.model_fields["labels"].annotation)
    assert names == ("questions", *label_levels.LABELS)


def test_each_level_begins_with_the_one_before_and_adds_to_it(samples):
    for sample in samples:
        captions = [caption_at_level(sample, level) for level in LEVELS]
        assert captions[0] == sample.caption

        for level, before, after in zip(list(LEVELS)[1:], captions, captions[1:], strict=False):
            assert after.startswith(before)
            # Only a photograph of objects has no text to add.
            assert (after == before) == (level == "text" and not sample.texts)


def test_captions_are_the_same_each_time():
    captions = [caption_at_level(synthetic.make_sample(number, "train"), "text") for number in (3, 4, 3, 4)]
    assert captions[:2] == captions[2:]


def test_global_level_counts_what_is_at_the_top_and_at_the_bottom(samples):
    for sample in samples:
        if sample.family == "document":
            continue

        sentence = level_sentences(sample)["global"]
        count = len(drawn_in(sample))
        assert NUMBER_OF_WORD[sentence.split()[3]] == count, sentence

        rows = Counter(location.split()[0] for _, location, _ in drawn_in(sample))
        if len(rows) == 1:
            assert sentence.endswith(f" at the {next(iter(rows))}.")
        else:
            counts = re.search(r"(\w+) at the top and (\w+) at the bottom\.$", sentence).groups()
            assert [NUMBER_OF_WORD[word] for word in counts] == [rows["top"], rows["bottom"]]


def test_global_level_says_how_far_a_page_is_filled(samples):
    for sample in samples:
        if sample.family == "document":
            reaches_lower_half = any(text.box[3] > sample.image.height / 2 for text in sample.texts)
            place = "from top to bottom" if reaches_lower_half else "at the top"
            assert level_sentences(sample)["global"] == f"a page with text {place}."


def test_regions_name_every_object_and_sign_with_its_place(samples):
    for sample in samples:
        if sample.family == "document":
            continue

        regions = re.findall(r"an? (\w+) at the (\w+ \w+)\.", level_sentences(sample)["regions"])
        assert regions == [(name, location) for name, location, _ in drawn_in(sample)]


def test_regions_of_a_document_are_its_title_and_the_lines_below(samples):
    for sample in samples:
        if sample.family != "document":
            continue

        title, *others = sample.texts
        assert title.box[3] < sample.image.height / 2
        assert all(text.box[1] >= title.box[1] for text in others)

        keys = len(sample.document.lines)
        sentence = level_sentences(sample)["regions"]
        assert sentence.startswith(f"a title at the top. {keys} line")
        columns = re.search(r"with (\d+) column", sentence)
        assert (int(columns[1]) if columns else 0) == len(sample.document.columns)


def test_segments_have_the_colour_and_size_of_each_object_and_sign(samples):
    widths = {"small": [], "of medium size": [], "large": []}
    for sample in samples:
        if sample.family == "document":
            continue

        pattern = r"the (\w+) at the (\w+ \w+) is (\w+) (?:and|with) ([\w ]+)\."
        sentences = re.findall(pattern, level_sentences(sample)["segments"])
        assert [sentence[:3] for sentence in sentences] == drawn_in(sample)

        sizes = [sentence[3] for sentence in sentences]
        for sign, size in zip(sample.signs, sizes, strict=sample.family == "scene_text"):
            text_size = next(item.text_size for item in sample.questions if item.answer == sign.text.string)
            assert size == ("small print" if text_size == "fine" else "large print")
        for drawn, size in zip(sample.objects, sizes, strict=sample.family == "general"):
            widths[size].append(drawn.box[2] - drawn.box[0])

    # Each size begins where the one before ends.
    small, medium, large = widths.values()
    assert max(small) <= min(medium) and max(medium) <= min(large)


def test_segments_of_a_document_have_the_size_of_its_print(samples):
    for sample in samples:
        if sample.family != "document":
            continue

        sentence = level_sentences(sample)["segments"]
        text_sizes = {question.kind: question.text_size for question in sample.questions}
        title = "small" if text_sizes["title"] == "fine" else "large"
        assert sentence.startswith(f"the title is in {title} print.")
        assert ("each line has a bar." in sentence) == (sample.document.kind == "chart")


def test_text_level_has_all_texts_in_reading_order(samples):
    for sample in samples:
        sentence = level_sentences(sample)["text"]
        if not sample.texts:
            assert sentence == ""
            continue

        texts = sentence.removeprefix("the text says: ").removesuffix(".").split(", ")
        assert texts == [text.string for text in sample.texts]


def test_text_that_is_not_legible_in_any_view_is_left_out(samples):
    # In one view of half the image's size, text of 18 pixels is just legible.
    sample = next(item for item in samples if len({text.height < 18 for text in item.texts}) == 2)
    sentence = level_sentences(sample, scale=0.5)["text"]
    legible = [text.string for text in sample.texts if text.height >= 18]
    assert sentence == f"the text says: {', '.join(legible)}."


def test_levels_can_be_displayed_with_an_example(samples):
    examples = label_levels.level_examples(samples[0])
    assert [example.level for example in examples] == list(LEVELS)
    assert all(example.caption.endswith(example.addition) for example in examples)
    assert all(example.description for example in examples)


def test_label_is_the_answer_to_the_prompt_for_a_detailed_caption(samples):
    turns = [label_levels.label_turn(samples[0], level) for level in LEVELS]
    assert {prompt for prompt, _ in turns} == {" Generate the detailed caption in English:"}
    assert [answer for _, answer in turns] == [caption_at_level(samples[0], level) for level in LEVELS]


def test_questions_before_a_caption_are_true_and_never_about_fine_print(samples):
    num_questions = 0
    for sample in samples:
        *questions, caption = label_levels.label_turns(sample, "text", np.random.default_rng(sample.seed))
        assert caption == label_levels.label_turn(sample, "text")

        answers = {item.question: item.answer for item in sample.questions if item.text_size != "fine"}
        for prompt, answer in questions:
            assert answers[prompt.strip().removesuffix(" Answer:")] == answer
        num_questions += len(questions)

    assert num_questions > len(samples)


def test_unknown_level_raises(samples):
    with pytest.raises(ValueError, match="no level called 'regoins': choose one of short, global"):
        caption_at_level(samples[0], "regoins")
    with pytest.raises(ValueError, match="no labels called 'captions'.*pipeline"):
        label_levels.label_turn(samples[0], "captions")
