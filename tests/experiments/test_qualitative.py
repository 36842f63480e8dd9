"""Qualitative examples: answers of several models, joined by question."""

from dataclasses import replace

import numpy as np
import pytest

from monkeylib.data import synthetic
from monkeylib.data.synthetic.transfer import make_transfer_sample
from monkeylib.experiments import qualitative
from monkeylib.tiling import Grid
from tests.support.prediction_rows import prediction, write_predictions


@pytest.fixture()
def files(tmp_path):
    """Predictions files of two models: the first is correct on 15 of twenty questions, the second on 5."""
    return {
        model: write_predictions(tmp_path / model, [prediction(n, n < count) for n in range(20)])
        for model, count in (("first", 15), ("second", 5))
    }


def test_examples_join_models_and_are_grouped_by_outcome(files):
    examples = qualitative.read_examples(files)
    assert [example.prediction.id for example in examples] == [f"fine-{n}" for n in range(20)]

    groups = qualitative.group_by_outcome(examples, "first", "second")

    # Both are correct on the first 5 questions, the first model alone on 10 more.
    counts = {outcome: len(group) for outcome, group in groups.items()}
    assert counts == {"only first": 10, "only second": 0, "both": 5, "neither": 5}
    assert groups["both"][0].correct == {"first": True, "second": True}
    assert groups["neither"][0].answers == {"first": "wrong", "second": "wrong"}


def test_transformed_image_is_rendered_with_its_transforms():
    example = replace(prediction(0, True), image="nano-dealt-test-17")
    expected = synthetic.make_sample(17, "test", rendering="dealt").image
    assert np.array_equal(np.asarray(qualitative.render_image(example)), np.asarray(expected))

    example = replace(prediction(0, True), image="nano-transfer-test-17")
    expected = make_transfer_sample(17).image
    assert np.array_equal(np.asarray(qualitative.render_image(example)), np.asarray(expected))


def test_example_renders_its_image_and_has_the_box_of_its_answer(files):
    example = qualitative.read_examples({"first": files["first"]})[3]
    expected = synthetic.make_sample(3, "test").image

    assert np.array_equal(np.asarray(example.image), np.asarray(expected))
    assert example.answer_box == (1.0, 2.0, 30.0, 40.0)


def test_predictions_of_other_questions_raise(files, tmp_path):
    # One question is missing.
    fewer = write_predictions(tmp_path / "fewer", [prediction(n, True) for n in range(19)])
    with pytest.raises(
        ValueError, match="predictions of fewer in .* answer other questions than those of first"
    ):
        qualitative.read_examples({"first": files["first"], "fewer": fewer})


def test_answers_are_compared_by_the_borders_that_cut_them(files):
    examples = qualitative.read_examples(files)

    def with_box(example, box, family):
        meta = {"answer_box": box, "family": family}
        return replace(example, prediction=replace(example.prediction, meta=meta))

    # Images have 192 pixels, and the borders of 2 x 2 tiles lie at 96.
    cut = [with_box(example, [90, 10, 120, 20], "document") for example in examples[:12]]
    through = [with_box(example, [90, 90, 120, 110], "document") for example in examples[12:16]]
    whole = [with_box(example, [100, 96, 120, 120], "scene_text") for example in examples[16:]]

    rows = qualitative.border_scores([*cut, *through, *whole], Grid(2, 2))
    assert [(row["model"], row["family"], row["border"], row["n"], row["correct"]) for row in rows] == [
        ("first", "document", "between letters", 12, 1),
        ("first", "document", "through letters", 4, 3 / 4),
        ("first", "scene_text", "none", 4, 0),
        ("second", "document", "between letters", 12, 5 / 12),
        ("second", "document", "through letters", 4, 0),
        ("second", "scene_text", "none", 4, 0),
    ]
    assert rows[0]["characters"] == len(examples[0].prediction.answers[0])

    # One column of two tiles has no vertical border.
    assert {row["border"] for row in qualitative.border_scores(cut, Grid(2, 1))} == {"none"}
