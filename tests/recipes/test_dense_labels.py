"""Dense labels: the same in a tile as in the full image, and true to the sample."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeylib.data import synthetic
from monkeylib.data.synthetic import samples, scenes
from monkeylib.label_mask import IGNORE_INDEX
from recipes.nano_base.dense_labels import CHARS, dense_labels

NUMBERS = st.integers(0, 10_000_000)
FAMILIES = st.sampled_from(synthetic.FAMILIES)
SIZE = 192


@pytest.fixture(scope="module")
def all_samples():
    """Samples of the training split."""
    return [synthetic.make_sample(number, "train") for number in range(80)]


@settings(max_examples=20, deadline=None)
@given(NUMBERS, FAMILIES)
def test_labels_of_a_tile_are_those_of_the_image(number, family):
    sample = synthetic.make_sample(number, "train", family=family)
    of_image = dense_labels(sample, (0, 0, 192, 192), 192, 48)

    for row, col in np.ndindex(2, 2):
        view = (96 * col, 96 * row, 96 * col + 96, 96 * row + 96)
        of_tile = dense_labels(sample, view, 96, 24)
        cells = slice(24 * row, 24 * row + 24), slice(24 * col, 24 * col + 24)
        for name in ("chars", "objects", "colours"):
            assert np.array_equal(getattr(of_tile, name), getattr(of_image, name)[cells]), name


def test_labels_state_what_lies_at_a_point(all_samples):
    for sample in all_samples[::3]:
        labels = dense_labels(sample, (0, 0, SIZE, SIZE), SIZE, SIZE)  # a point for every pixel
        for text in sample.texts:
            assert text.height >= samples.LEGIBLE
            for glyph in text.glyphs:
                x, y = ((glyph.box[i] + glyph.box[i + 2]) / 2 for i in (0, 1))
                assert labels.chars[int(y), int(x)] == 1 + CHARS.index(glyph.char)

        for drawn in sample.objects:
            x, y = (int((drawn.box[i] + drawn.box[i + 2]) / 2) for i in (0, 1))
            assert labels.objects[y, x] == 1 + scenes.OBJECTS.index(drawn.name)
            assert labels.colours[y, x] == 1 + list(scenes.COLOURS).index(drawn.colour)

        for sign in sample.signs:
            x, y = int(sign.box[0] + 1), int(sign.box[1] + 1)
            assert labels.colours[y, x] == 1 + list(scenes.COLOURS).index(sign.colour)


def test_text_too_small_for_a_view_is_ignored(all_samples):
    cases = set()
    for sample in all_samples:
        labels = dense_labels(sample, (0, 0, SIZE, SIZE), 96, 96)
        for text in sample.texts:
            is_legible = text.height * 96 / SIZE >= samples.LEGIBLE
            for glyph in text.glyphs:
                x, y = (int((glyph.box[i] + glyph.box[i + 2]) / 4) for i in (0, 1))
                assert (labels.chars[y, x] != IGNORE_INDEX) == is_legible
                cases.add(is_legible)

    assert cases == {True, False}
