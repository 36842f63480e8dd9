"""Renderings: transforms of quadrants that are exact, and leave questions and answers true."""

import numpy as np
import pytest
from PIL import Image

from monkeylib.data import synthetic
from monkeylib.data.synthetic import renderings, scenes
from monkeylib.digests import data_digest
from tests.support.synthetic_ground_truth import answer_from_ground_truth

NUMBERS = range(60)
# Before there were renderings.
ORDINARY_DIGEST = "d8b5a4df36bb4738b8376882b03989c37452053ba21acf84411c0b5a4f463c60"


@pytest.fixture(scope="module")
def samples_by_rendering():
    """The same samples in each rendering that transforms quadrants."""
    return {
        rendering: [synthetic.make_sample(number, "test", rendering=rendering) for number in NUMBERS]
        for rendering in ("fixed", "dealt")
    }


def coordinates(size=(8, 6)):
    """An image whose red and green values are its x and y coordinates."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[..., 0] = np.arange(size[0])
    pixels[..., 1] = np.arange(size[1])[:, None]
    return Image.fromarray(pixels)


def quadrant(image, number):
    """The pixels of a quadrant."""
    return np.asarray(image.crop(renderings.quadrant_boxes(image.size)[number]))


# --- transforms


def test_each_quadrant_is_transformed_in_itself():
    image = coordinates()
    turned = renderings.transform_quadrants(image, ("none", "half-turned", "mirrored", "half-turned"))

    assert np.array_equal(quadrant(turned, 0), quadrant(image, 0))
    assert np.array_equal(quadrant(turned, 1), quadrant(image, 1)[::-1, ::-1])
    assert np.array_equal(quadrant(turned, 2), quadrant(image, 2)[:, ::-1])
    assert np.array_equal(quadrant(turned, 3), quadrant(image, 3)[::-1, ::-1])


@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
@pytest.mark.parametrize("name", ["inverted", "half-turned", "mirrored"])
def test_reversible_transform_gives_the_image_back(name, size):
    rng = np.random.default_rng(3)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))

    once = renderings.transform_quadrants(image, (name,) * 4)
    twice = renderings.transform_quadrants(once, (name,) * 4)
    assert not np.array_equal(np.asarray(once), np.asarray(image))
    assert np.array_equal(np.asarray(twice), np.asarray(image))


def test_quadrants_cover_an_image_of_odd_size_once():
    covered = np.zeros((5, 7), int)
    for x0, y0, x1, y1 in renderings.quadrant_boxes((7, 5)):
        covered[y0:y1, x0:x1] += 1
    assert (covered == 1).all()


def test_inversion_keeps_the_colours_that_are_drawn():
    """The nearest colour by its direction from grey is still the same one."""
    colours = {name: scenes.COLOURS[name] for name in scenes.COLOURS if name not in ("white", "black")}

    def chroma(rgb):
        direction = np.subtract(rgb, np.mean(rgb))
        return direction / np.linalg.norm(direction)

    for name, rgb in colours.items():
        image = Image.new("RGB", (2, 2), rgb)
        inverted = renderings.transform_quadrants(image, ("inverted",) * 4).getpixel((0, 0))
        nearest = max(colours, key=lambda other: chroma(inverted) @ chroma(colours[other]))
        assert nearest == name

    light = renderings.transform_quadrants(Image.new("RGB", (2, 2), "white"), ("inverted",) * 4)
    assert light.getpixel((0, 0)) == (0, 0, 0)


def test_faint_quadrant_has_a_third_of_the_contrast():
    image = Image.fromarray(np.array([[[0, 128, 255]]], np.uint8).repeat(2, 0).repeat(2, 1))
    faint = renderings.transform_quadrants(image, ("faint",) * 4)
    assert faint.getpixel((0, 0)) == (83, 128, 172)


def test_thin_and_blurred_strokes():
    stroke = np.full((9, 9, 3), 200, np.uint8)
    stroke[:, 3:6] = 40
    image = Image.fromarray(stroke)

    thin = np.asarray(renderings.TRANSFORMS["thin"](image))
    assert thin[4, :, 0].tolist() == [200, 200, 200, 200, 40, 200, 200, 200, 200]
    blurred = np.asarray(renderings.TRANSFORMS["blurred"](image))
    assert blurred[4, :, 0].tolist() == [200, 200, 160, 80, 40, 80, 160, 200, 200]


def test_unknown_names_raise():
    with pytest.raises(ValueError, match="no rendering called 'mixed': choose one of ordinary, fixed, dealt"):
        synthetic.make_sample(0, "test", rendering="mixed")
    with pytest.raises(ValueError, match="no transform called 'upside down'"):
        renderings.transform_quadrants(coordinates(), ("upside down",) * 4)


# --- renderings of samples


def test_ordinary_samples_have_not_changed():
    samples = [
        synthetic.make_sample(number, split, size)
        for split in ("train", "val", "test")
        for number in range(12)
        for size in ((192, 192), (288, 96))
    ]
    content = [
        (s.image, s.caption, s.detailed_caption, [(q.question, q.answer, q.answer_box) for q in s.questions])
        for s in samples
    ]
    assert data_digest(content) == ORDINARY_DIGEST


def test_rendering_is_the_same_each_time(samples_by_rendering):
    for rendering, samples in samples_by_rendering.items():
        again = synthetic.make_sample(7, "test", rendering=rendering)
        assert np.array_equal(np.asarray(again.image), np.asarray(samples[7].image))
        assert again.image.mode == "RGB" and again.image.size == (192, 192)


def test_pixels_of_renderings_have_not_changed(samples_by_rendering):
    """Exact, so that other machines train on the same images."""
    digests = {
        rendering: data_digest([sample.image for sample in samples[:20]])
        for rendering, samples in samples_by_rendering.items()
    }
    assert digests == {
        "fixed": "cb61b71de96eb70dfcb085d6436b4461def524da4e557e24c0656383199a3e59",
        "dealt": "4d051083d59d706a883848fdb71cc93aab8d79c248e4587a65608731e29b2364",
    }


def test_both_renderings_transform_the_same_image_and_have_the_same_ground_truth(samples_by_rendering):
    for fixed, dealt in zip(*samples_by_rendering.values(), strict=True):
        for field in ("caption", "detailed_caption", "questions", "objects", "signs", "texts", "facts"):
            assert getattr(fixed, field) == getattr(dealt, field)

        # Quadrants with the same transform in both are equal, since the image before is.
        names = renderings.quadrant_transforms("dealt", dealt.seed)
        for number in range(4):
            same = np.array_equal(quadrant(fixed.image, number), quadrant(dealt.image, number))
            assert same == (names[number] == renderings.QUADRANTS[number])


def test_each_image_has_each_transform_once_and_each_position_all_of_them():
    deals = [renderings.quadrant_transforms("dealt", seed) for seed in range(2400)]
    assert all(sorted(deal) == sorted(renderings.QUADRANTS) for deal in deals)
    assert {renderings.quadrant_transforms("fixed", seed) for seed in range(9)} == {renderings.QUADRANTS}

    # All 24 orders, a hundred times each up to five standard deviations.
    counts = [deals.count(deal) for deal in set(deals)]
    assert len(counts) == 24 and max(abs(count - 100) for count in counts) < 50


def test_every_answer_still_follows_from_the_ground_truth(samples_by_rendering):
    for sample in samples_by_rendering["dealt"]:
        for question in sample.questions:
            assert answer_from_ground_truth(sample, question.question) == question.answer


def test_transforms_leave_places_and_colours_true(samples_by_rendering):
    """Nothing is white or black, and everything drawn lies in the quadrant that answers name."""
    count = 0
    for sample in samples_by_rendering["fixed"]:
        for drawn in (*sample.objects, *sample.signs):
            assert drawn.colour not in ("white", "black")
            assert not renderings.is_cut(drawn.box, sample.image.size)
            (name,) = renderings.transforms_at(drawn.box, sample.image.size, "fixed", sample.seed)
            quadrants = ["top left", "top right", "bottom left", "bottom right"]
            assert name == renderings.QUADRANTS[quadrants.index(drawn.location)]
            count += 1
    assert count > 50


def test_no_question_needs_a_text_that_a_border_cuts(samples_by_rendering):
    cut, questions = 0, 0
    for sample in samples_by_rendering["fixed"]:
        cut += sum(renderings.is_cut(text.box, sample.image.size) for text in sample.texts)
        for question in sample.questions:
            if question.kind in ("value", "cell", "title", "read"):
                same = [text for text in sample.texts if text.string.rstrip(":") == question.answer]
                assert not all(renderings.is_cut(text.box, sample.image.size) for text in same)
                questions += 1
    assert cut > 20 and questions > 50


@pytest.mark.parametrize("name", ["fine", "large", "general"])
def test_test_sets_ask_the_same_in_both_renderings(name):
    fixed, dealt = (synthetic.make_test_set(name, 20, rendering=r) for r in ("fixed", "dealt"))
    assert [(a.id, a.question, a.answers) for a in fixed] == [(b.id, b.question, b.answers) for b in dealt]
    assert {question.sample.rendering for question in fixed} == {"fixed"}
