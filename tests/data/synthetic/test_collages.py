"""Composite scenes and their ground truth."""

import numpy as np
import pytest

from monkeylib import assets, boxes
from monkeylib.data.synthetic import collages


@pytest.fixture(scope="module")
def composite_scenes():
    return [collages.make_composite_scene(seed) for seed in range(6)]


def test_scene_is_the_same_each_time(composite_scenes):
    for seed, scene in enumerate(composite_scenes):
        again = collages.make_composite_scene(seed)
        assert again.image.tobytes() == scene.image.tobytes()
        assert again.references == scene.references
    assert len({scene.image.tobytes() for scene in composite_scenes}) == len(composite_scenes)


def test_scene_contains_its_ground_truth(composite_scenes):
    width, height = collages.SIZE
    for scene in composite_scenes:
        assert scene.image.size == collages.SIZE
        assert 2 <= len(scene.photographs) <= 3
        assert 1 <= len(scene.texts) <= 2
        assert all(text in scene.references[1] for text in scene.texts)

        for placed in scene.photographs:
            x0, y0, x1, y1 = placed.box
            assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
            assert placed.photograph.name in scene.references[0]
            assert placed.photograph.name in scene.true_words


def test_photographs_do_not_overlap(composite_scenes):
    for scene in composite_scenes:
        placed_boxes = [placed.box for placed in scene.photographs]
        for index, first in enumerate(placed_boxes):
            for second in placed_boxes[index + 1 :]:
                assert boxes.intersection_area(first, second) == 0


def test_photograph_lies_in_its_box(composite_scenes):
    placed = composite_scenes[0].photographs[0]
    box = tuple(int(edge) for edge in placed.box)
    pixels = np.asarray(composite_scenes[0].image.crop(box), dtype=float)

    photograph = collages._open(assets.fetch(collages.ASSET), placed.photograph.file)
    # Scaled as it was pasted, up to a pixel.
    photograph.thumbnail((box[2] - box[0] + 1, box[3] - box[1] + 1))
    expected = np.asarray(photograph.resize(pixels.shape[1::-1]), dtype=float)

    # The photograph may be mirrored.
    difference = np.abs(pixels - expected).mean()
    mirrored_difference = np.abs(pixels - expected[:, ::-1]).mean()

    assert min(difference, mirrored_difference) < 12
