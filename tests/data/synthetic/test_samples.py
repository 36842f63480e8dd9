"""Samples: the same everywhere, complete, and true to their images."""

import hashlib
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeylib.boxes import center
from monkeylib.data import synthetic
from monkeylib.data.synthetic import samples, words
from tests.support.synthetic_ground_truth import answer_from_ground_truth

NUMBERS = st.integers(0, 10_000_000)
SPLITS = st.sampled_from(words.SPLITS)
FAMILIES = st.sampled_from(synthetic.FAMILIES)
SIZE = 192


def digest(sample) -> str:
    """Everything that must be equal in two renderings of a sample."""
    pixels = hashlib.sha256(sample.image.tobytes()).hexdigest()
    ground_truth = (sample.caption, sample.detailed_caption, sample.questions, sample.facts, sample.texts)
    return f"{pixels} {ground_truth}"


@settings(max_examples=12, deadline=None)
@given(NUMBERS, SPLITS, FAMILIES, st.sampled_from([96, 112, 192]))
def test_sample_depends_on_its_number_alone(number, split, family, side):
    first, second = (synthetic.make_sample(number, split, (side, side), family) for _ in range(2))
    assert digest(first) == digest(second)
    assert first.family == family and first.image.size == (side, side) and first.image.mode == "RGB"


def test_sample_is_the_same_in_another_process():
    code = (
        "import hashlib; from monkeylib.data import synthetic\n"
        "for n in range(6):\n"
        "    s = synthetic.make_sample(n, 'test')\n"
        "    print(hashlib.sha256(s.image.tobytes()).hexdigest(), s.questions)"
    )

    # Another hash seed: no order may depend on that of a set.
    environment = {"PYTHONHASHSEED": "77", "PATH": ""}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)

    assert process.returncode == 0, process.stderr

    samples = [synthetic.make_sample(n, "test") for n in range(6)]
    lines = [f"{hashlib.sha256(s.image.tobytes()).hexdigest()} {s.questions}" for s in samples]
    assert process.stdout.splitlines() == lines


def test_unknown_split_and_family_raise():
    with pytest.raises(ValueError, match="no split called 'dev': choose one of train, val, test"):
        synthetic.make_sample(0, "dev")
    with pytest.raises(ValueError, match="no family called 'signs': choose one of general"):
        synthetic.make_sample(0, "test", family="signs")


def test_number_gives_another_layout_in_each_split(samples_by_split):
    for layouts in zip(*samples_by_split.values(), strict=True):
        boxes = [[t.box for t in (*s.objects, *s.texts)] for s in layouts]
        assert boxes[0] != boxes[1] != boxes[2] != boxes[0]


def test_every_answer_follows_from_the_ground_truth(all_samples):
    kinds = set()
    for sample in all_samples:
        assert sample.questions
        for question in sample.questions:
            assert answer_from_ground_truth(sample, question.question) == question.answer, (
                sample.seed,
                question,
            )
            kinds.add(question.kind)

    assert kinds == {"colour", "where", "what", "count", "read", "title", "value", "cell", "compare"}


def test_questions_about_an_image_are_unique(all_samples):
    for sample in all_samples:
        questions = [question.question for question in sample.questions]
        assert len(questions) == len(set(questions))


def test_answer_box_lies_in_the_image_and_holds_the_answer(all_samples):
    for sample in all_samples:
        for question in sample.questions:
            x0, y0, x1, y1 = question.answer_box
            assert 0 <= x0 < x1 <= SIZE and 0 <= y0 < y1 <= SIZE

            # Some text of the image is the answer, and lies in the box up to a pixel.
            if question.text_size != "object":
                assert any(
                    text.string.rstrip(":") == question.answer
                    and text.box[0] >= x0 - 1
                    and text.box[2] <= x1 + 1
                    and text.box[1] >= y0 - 1
                    and text.box[3] <= y1 + 1
                    for text in sample.texts
                ), (sample.seed, question)


def test_captions_name_everything_in_the_image(all_samples):
    for sample in all_samples:
        for drawn in sample.objects:
            assert drawn.name in sample.caption
            assert f"{drawn.colour} {drawn.name} at the {drawn.location}" in sample.detailed_caption
        for text in sample.texts:
            assert text.string in sample.detailed_caption


def test_small_text_is_not_legible_at_one_tile_and_large_text_is(all_samples):
    heights = {"fine": [], "large": []}
    for sample in all_samples:
        for question in sample.questions:
            if question.text_size != "object":
                heights[question.text_size].append(question.height)

    assert min(heights["fine"]) >= samples.LEGIBLE, "legible at full size"
    assert max(heights["fine"]) * samples.TILE / SIZE < samples.LEGIBLE, "not legible at one tile"
    assert min(heights["large"]) * samples.TILE / SIZE >= samples.LEGIBLE, "legible at one tile"
    assert min(map(len, heights.values())) > 80


def test_height_of_a_question_is_that_of_the_smallest_text_it_needs(all_samples):
    for sample in all_samples:
        for question in sample.questions:
            if question.text_size != "object":
                x0, y0, x1, y1 = question.answer_box
                # Texts whose centre lies in the box.
                heights = []
                for text in sample.texts:
                    x, y = center(text.box)
                    if x0 <= x <= x1 and y0 <= y <= y1:
                        heights.append(text.height)

                assert question.height in heights


@pytest.mark.parametrize("name", ["fine", "large", "general"])
def test_test_set_is_the_same_each_time_and_has_its_text_size(name):
    first = synthetic.make_test_set(name, 12)
    second = synthetic.make_test_set(name, 9)

    assert [(a.id, a.question, a.answers) for a in first[:9]] == [
        (a.id, a.question, a.answers) for a in second
    ]
    assert len({a.id for a in first}) == len(first) == 12

    # Two questions about an image at most.
    images = [a.sample.seed for a in first]
    assert max(images.count(seed) for seed in images) <= 2
    for question in first:
        assert question.sample.split == "test" and question.prompt == "vqa"
        assert question.annotation.text_size == ("object" if name == "general" else name)
        assert question.answers == (answer_from_ground_truth(question.sample, question.question),)


def test_captions_are_those_of_the_test_split():
    questions = synthetic.make_test_set("caption", 5)
    assert [q.answers for q in questions] == [(synthetic.make_sample(n, "test").caption,) for n in range(5)]
    assert {q.prompt for q in questions} == {"caption"} and {q.question for q in questions} == {""}


def test_validation_shares_no_fact_with_test():
    sets = [synthetic.make_test_set("fine", 20, split=split) for split in ("val", "test")]
    facts = [{fact for question in questions for fact in question.sample.facts} for questions in sets]
    assert facts[0] and not facts[0] & facts[1]


@pytest.mark.parametrize("signs", [-1, 0, 4])
def test_other_numbers_of_signs_raise(signs):
    with pytest.raises(ValueError, match=f"signs: expected a number from 1 to 3, got {signs}"):
        samples.make_sample(0, "train", family="scene_text", signs=signs)


def test_unknown_test_set_raises():
    with pytest.raises(ValueError, match="no test set called 'tiny': choose one of fine, large"):
        synthetic.make_test_set("tiny", 3)
