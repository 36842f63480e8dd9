"""Scenes: objects do not touch, and have their colours."""

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from monkeylib.boxes import touch
from monkeylib.data import synthetic
from monkeylib.data.synthetic import scenes


def test_objects_do_not_touch_and_keep_to_their_quadrants(all_samples):
    for sample in all_samples:
        for number, drawn in enumerate(sample.objects):
            assert drawn.location == scenes.quadrant_of(drawn.box, sample.image.size)
            assert not any(touch(drawn.box, earlier.box) for earlier in sample.objects[:number])


def test_objects_have_their_colour_in_the_image(all_samples):
    for sample in all_samples:
        pixels = np.asarray(sample.image)
        for drawn in sample.objects:
            x0, y0, x1, y1 = (round(edge) for edge in drawn.box)
            # Even thin shapes such as the ring fill a seventh of their box.
            has_colour = (pixels[y0:y1, x0:x1] == scenes.COLOURS[drawn.colour]).all(-1)
            assert has_colour.mean() > 0.15, (sample.seed, drawn)


@pytest.mark.parametrize("rendering", ["ordinary", "fixed"])
def test_colours_and_places_of_signs_are_balanced(rendering):
    """So neither tells what a sign says, and no answer can be had from what is most frequent."""
    signs = [
        sign
        for number in range(300)
        for sign in synthetic.make_sample(number, "test", family="scene_text", rendering=rendering).signs
    ]
    colours = Counter(sign.colour for sign in signs)
    locations = Counter(sign.location for sign in signs)
    both = Counter((sign.colour, sign.location) for sign in signs)

    assert len(colours) == (8 if rendering == "ordinary" else 6) and len(locations) == 4
    # A balanced draw is more uneven than this once in a thousand.
    for counts in (colours, locations, both):
        assert chisquare(list(counts.values())).pvalue > 0.001
    assert len(both) == 4 * len(colours)
