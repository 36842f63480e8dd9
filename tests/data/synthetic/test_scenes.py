"""Scenes: objects do not touch, and have their colours."""

import numpy as np

from monkeylib.boxes import touch
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
