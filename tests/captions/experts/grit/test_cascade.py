"""GRiT's cascade against the released code's values."""

import pytest
import torch
from torch.nn import functional as F

from monkeylib.captions.experts.grit.cascade import DELTA_FACTORS, clip, move
from monkeylib.captions.experts.grit.pooling import pool_boxes
from tests.support.grit_goldens import assert_near, expected, facts, small_grit


@pytest.mark.parametrize("index", [0, 1, 2])
@torch.inference_mode()
def test_stage_is_that_of_the_released_code(run, index):
    name = f"{run.name}.stage{index}"
    boxes = expected()[f"{name}.boxes_in"]
    stage = small_grit().cascade.stages[index]
    pooled = pool_boxes(run.maps[:3], boxes, 7)
    logits, deltas = stage(pooled)

    hidden = F.relu(stage.fc2(F.relu(stage.fc1(pooled.flatten(1)))))
    assert_near(hidden, f"{name}.fc", 3e-3)
    assert_near(logits, f"{name}.logits", 3e-3)
    assert_near(deltas, f"{name}.deltas", 3e-3)
    assert_near(move(boxes, deltas, DELTA_FACTORS[index]), f"{name}.boxes_out", 5e-3)


def test_only_the_boxes_of_a_stage_are_clipped(run):
    """The proposals go into the first stage as they are; 30 of the 40 of image a stick out."""
    size = run.image.size
    for index in (0, 1, 2):
        boxes = expected()[f"{run.name}.stage{index}.boxes_in"]
        is_inside = torch.equal(clip(boxes, size), boxes)
        assert is_inside == (index > 0)

    before = expected()[f"{run.name}.stage0.boxes_out"]
    assert_near(clip(before, size), f"{run.name}.stage1.boxes_in", 1e-4)


@torch.inference_mode()
def test_detections_are_those_of_the_released_code(run):
    proposals = expected()[f"{run.name}.proposals.boxes"], expected()[f"{run.name}.proposals.scores"]
    boxes, scores = small_grit().cascade(run.maps[:3], *proposals, run.image.size)

    assert len(boxes) == facts()["images"][run.name]["counts"]["detections"]
    assert_near(boxes, f"{run.name}.detections.boxes", 5e-3)
    assert_near(scores, f"{run.name}.detections.scores", 1e-4)
    selected = expected()[f"{run.name}.final.scores_all"][
        expected()[f"{run.name}.detections.proposal_index"].long()
    ]
    torch.testing.assert_close(scores, selected, rtol=0, atol=1e-4)


def test_end_to_end_detections_are_those_of_the_released_code(run):
    boxes, scores = run.outputs["cascade"]
    assert_near(boxes, f"{run.name}.detections.boxes", 5e-3)
    assert_near(scores, f"{run.name}.detections.scores", 1e-4)


def test_moves_are_those_of_the_released_code():
    boxes, deltas = expected()["unit.delta.boxes"], expected()["unit.delta.deltas"]
    for index, factors in enumerate(DELTA_FACTORS):
        torch.testing.assert_close(
            move(boxes, deltas, factors), expected()[f"unit.delta.out{index}"], rtol=1e-5, atol=1e-3
        )


def test_boxes_that_are_no_numbers_are_dropped():
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, float("nan"), 9], [50, 50, 90, 90]])
    scores = torch.tensor([0.7, 0.9, 0.8])
    selected, selected_scores = small_grit().cascade._select(boxes, scores)

    assert selected.tolist() == [[50, 50, 90, 90], [0, 0, 9, 9]]
    assert selected_scores.tolist() == pytest.approx([0.8, 0.7])
