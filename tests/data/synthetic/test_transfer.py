"""Images that differ from those of training, each in one way, with true questions."""

from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageDraw

from monkeylib.boxes import Box, center
from monkeylib.data import synthetic
from monkeylib.data.synthetic import canvas, scenes, transfer, words
from monkeylib.data.synthetic.samples import Sample
from tests.support.synthetic_ground_truth import answer_from_ground_truth

NUMBERS = range(72)


@pytest.fixture(scope="module")
def transfer_samples():
    return [transfer.make_transfer_sample(number) for number in NUMBERS]


def of_change(samples, change):
    return [sample for sample in samples if sample.change == change]


def pixels(image):
    return np.asarray(image).astype(int)


def test_each_family_has_its_changes(transfer_samples):
    changes = {
        family: {sample.change for sample in transfer_samples if sample.family == family}
        for family in synthetic.FAMILIES
    }
    assert changes == {
        "general": {"photograph", "rotation", "jpeg"},
        "scene_text": {"typeface", "photograph", "rotation", "jpeg"},
        "document": {"typeface", "rotation", "jpeg"},
    }


def test_every_answer_follows_from_the_ground_truth(transfer_samples):
    for sample in transfer_samples:
        assert sample.split == "test" and sample.image.mode == "RGB" and sample.image.size == (192, 192)
        for question in sample.questions:
            assert answer_from_ground_truth(sample, question.question) == question.answer
        # No fact that was read in training.
        assert {words.split_of(*fact) for fact in sample.facts} <= {"test"}


def test_sample_is_the_same_each_time(transfer_samples):
    for number in (0, 1, 2, 3, 4, 5, 6, 7):
        again = transfer.make_transfer_sample(number)
        assert np.array_equal(pixels(again.image), pixels(transfer_samples[number].image))
        assert again.questions == transfer_samples[number].questions


@pytest.mark.parametrize("change", ["rotation", "jpeg"])
def test_turned_and_compressed_images_have_the_questions_of_the_test_split(transfer_samples, change):
    samples = of_change(transfer_samples, change)
    assert len(samples) > 10
    for sample in samples:
        ordinary = synthetic.make_sample(sample.seed, "test")
        assert [(q.question, q.answer) for q in sample.questions] == [
            (q.question, q.answer) for q in ordinary.questions
        ]
        assert not np.array_equal(pixels(sample.image), pixels(ordinary.image))


def test_compression_damages_a_little(transfer_samples):
    for sample in of_change(transfer_samples, "jpeg"):
        ordinary = synthetic.make_sample(sample.seed, "test")
        error = np.abs(pixels(sample.image) - pixels(ordinary.image)).mean()
        assert 0.5 < error < 20
        assert sample.questions == ordinary.questions


# --- typefaces and photographs


def test_training_knows_none_of_the_faces_and_photographs():
    assert not set(transfer.FACES) & set(canvas.FONTS)
    assert not set(transfer.PHOTOS) & {*canvas.PHOTOS["train"], *canvas.PHOTOS["test"]}


def test_only_new_faces_and_photographs_are_drawn(monkeypatch):
    used = {"fonts": set(), "photos": set()}
    load_font, load_photo = canvas.font, canvas.photo

    def recording_font(name, height):
        used["fonts"].add(name)
        return load_font(name, height)

    def recording_photo(name):
        used["photos"].add(name)
        return load_photo(name)

    # Widths are those of an earlier test, otherwise.
    canvas._advance.cache_clear()
    monkeypatch.setattr(canvas, "font", recording_font)
    monkeypatch.setattr(canvas, "photo", recording_photo)

    for number in range(30):
        synthetic.make_sample(number, "test", style=transfer._STYLES["photograph"], family="general")
    assert used["photos"] == set(transfer.PHOTOS)

    used["fonts"].clear()
    for number in range(30):
        synthetic.make_sample(number, "test", style=transfer._STYLES["typeface"], family="document")
    # The first font of training lends its baseline.
    assert used["fonts"] - {canvas.FONTS[0]} == set(transfer.FACES)


@pytest.mark.parametrize("name", transfer.FACES)
def test_capitals_are_as_high_as_those_of_training(name):
    def height_of(face):
        _, top, _, bottom = canvas.font(face, 100).getbbox("H")
        return bottom - top

    assert abs(height_of(name) - height_of(canvas.FONTS[0])) <= 2


def test_new_faces_stand_on_the_same_baseline():
    lowest = {}
    for name in (canvas.FONTS[0], *transfer.FACES):
        sheet = Image.new("L", (200, 60))
        canvas.draw_text(ImageDraw.Draw(sheet), (5, 5), "HAHE", name, 24, 255)
        lowest[name] = int(np.flatnonzero((np.asarray(sheet) > 128).any(1)).max())
    assert max(lowest.values()) - min(lowest.values()) <= 1


# --- rotation


def marked_sample(box: Box) -> Sample:
    """A black image with a white box that a question is about."""
    image = Image.new("RGB", (192, 192))
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill="white")
    question = synthetic.Question("what?", "box", "general", "what", box, 20.0, "object")
    return Sample(image, "test", 0, "general", "", "", (question,))


@pytest.mark.parametrize("degrees", [-5.0, 2.5, 5.0])
@pytest.mark.parametrize(
    "box", [(2.0, 2.0, 40.0, 30.0), (120.0, 60.0, 190.0, 80.0), (20.0, 150.0, 90.0, 190.0)]
)
def test_answer_box_follows_its_content(degrees, box):
    turned = transfer.rotate(marked_sample(box), degrees)
    (question,) = turned.questions

    rows, columns = np.nonzero(np.asarray(turned.image)[..., 0] > 128)
    drawn = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert question.answer_box == pytest.approx(drawn, abs=1.5)
    assert question.height == pytest.approx(20 * 0.92, rel=0.06)


def test_positive_degrees_turn_counter_clockwise():
    (question,) = transfer.rotate(marked_sample((150.0, 90.0, 180.0, 102.0)), 5.0).questions
    _, y = center(question.answer_box)
    assert y < 92


def test_nothing_leaves_a_turned_image_and_nothing_changes_its_quadrant(transfer_samples):
    for sample in of_change(transfer_samples, "rotation"):
        ordinary = synthetic.make_sample(sample.seed, "test")
        for question, before in zip(sample.questions, ordinary.questions, strict=True):
            x0, y0, x1, y1 = question.answer_box
            assert 0 <= x0 < x1 <= 192 and 0 <= y0 < y1 <= 192
            if question.kind in ("where", "colour"):
                assert scenes.quadrant_of(question.answer_box, (192, 192)) == scenes.quadrant_of(
                    before.answer_box, (192, 192)
                )


@pytest.mark.parametrize("name", ["fine", "large", "general"])
def test_test_set_has_every_change(name):
    questions = synthetic.make_test_set(
        name, 60, make=partial(transfer.make_transfer_sample, size=(192, 192))
    )
    expected = {"photograph", "rotation", "jpeg"} if name == "general" else set(transfer.CHANGES)
    assert {question.sample.change for question in questions} == expected
    assert len({question.id for question in questions}) == 60
