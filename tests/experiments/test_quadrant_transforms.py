"""What transforms cost the base model: questions, scores, and the committed table."""

import numpy as np
import pytest

from monkeylib import resources, tables
from monkeylib.data.synthetic.renderings import QUADRANTS, TRANSFORMS, transform_quadrants
from monkeylib.experiments import quadrant_transforms
from tests.support.random_monkey import make_monkey


def test_questions_are_those_of_the_same_validation_images_for_every_transform():
    plain, mirrored = (
        quadrant_transforms.transformed_questions("fine", 6, transform) for transform in ("none", "mirrored")
    )
    assert [(a.id, a.question, a.answers) for a in plain] == [(b.id, b.question, b.answers) for b in mirrored]
    assert not {a.image_key for a in plain} & {b.image_key for b in mirrored}

    for before, after in zip(plain, mirrored, strict=True):
        expected = transform_quadrants(before.image, ("mirrored",) * 4)
        assert np.array_equal(np.asarray(after.image), np.asarray(expected))


def test_each_transform_is_scored_on_each_test_set():
    rows = quadrant_transforms.score_transforms(make_monkey(), 3, ("none", "half-turned"))

    assert [(row["transform"], row["test_set"]) for row in rows] == [
        ("none", "fine"), ("none", "large"), ("half-turned", "fine"), ("half-turned", "large")
    ]  # fmt: skip
    assert {row["questions"] for row in rows} == {3}
    assert all(0 <= row["exact"] <= 1 and row["log_likelihood"] < 0 for row in rows)

    # The model sees the transform.
    assert rows[0]["log_likelihood"] != rows[2]["log_likelihood"]


@pytest.mark.parametrize("test_set", quadrant_transforms.TEST_SETS)
def test_selected_transforms_cost_the_base_model_something(test_set):
    rows = tables.read_table(quadrant_transforms.TABLE, resources.COMMITTED_PROFILE)
    scores = {row["transform"]: row["log_likelihood"] for row in rows if row["test_set"] == test_set}
    assert set(scores) == set(TRANSFORMS)
    assert all(scores[name] < scores["none"] for name in QUADRANTS)
