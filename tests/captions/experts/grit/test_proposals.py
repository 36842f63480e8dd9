"""GRiT's proposals against the released code's values."""

import dataclasses

import torch

from monkeylib.captions.experts.grit.proposals import (
    CellPredictions,
    ProposalHead,
    _level_proposals,
    select_proposals,
    suppress_overlaps,
)
from tests.support.grit_goldens import CONFIG, assert_near, expected, facts, small_grit

LEVELS = ("p3", "p4", "p5", "p6", "p7")


def golden_predictions(prefix: str) -> list[CellPredictions]:
    values = expected()
    return [
        CellPredictions(values[f"{prefix}.{p}.heatmap_logit"][None], values[f"{prefix}.{p}.ltrb"][None])
        for p in LEVELS
    ]


def test_head_is_that_of_the_released_code(run):
    for level, predictions in zip(LEVELS, run.outputs["proposals"], strict=True):
        assert_near(predictions.logits[0], f"{run.name}.{level}.heatmap_logit", 2e-4)
        assert_near(predictions.distances[0], f"{run.name}.{level}.ltrb", 2e-4)


def test_proposals_are_those_of_the_released_code(run):
    boxes, scores = select_proposals(run.outputs["proposals"], 0, CONFIG)

    assert len(boxes) == facts()["images"][run.name]["counts"]["proposals"]
    assert_near(boxes, f"{run.name}.proposals.boxes", 2e-3)
    assert_near(scores, f"{run.name}.proposals.scores", 3e-5)


def test_candidates_and_their_suppression_are_those_of_the_released_code(run):
    levels = zip(golden_predictions(run.name), (8, 16, 32, 64, 128), strict=True)
    parts = [_level_proposals(p.logits[0], p.distances[0], stride, CONFIG) for p, stride in levels]
    boxes, scores = (torch.cat(part) for part in zip(*parts, strict=True))

    order, golden_order = scores.argsort(), expected()[f"{run.name}.proposals.pre_scores"].argsort()
    golden_boxes = expected()[f"{run.name}.proposals.pre_boxes"][golden_order]
    torch.testing.assert_close(boxes[order], golden_boxes, rtol=0, atol=2e-3)

    selected = suppress_overlaps(boxes, scores, CONFIG.proposal_iou)
    assert_near(boxes[selected], f"{run.name}.proposals.nms_boxes", 2e-3)
    assert_near(scores[selected], f"{run.name}.proposals.nms_scores", 3e-5)


def test_boxes_reach_beyond_the_image_and_are_never_empty():
    boxes, scores = select_proposals(golden_predictions("unit.proposals"), 0, CONFIG)

    assert_near(boxes, "unit.proposals.boxes", 2e-3)
    assert_near(scores, "unit.proposals.scores", 3e-5)
    assert (boxes < 0).any()
    extents = boxes[:, 2:] - boxes[:, :2]
    assert 0 < extents.min() < 0.02, "distances of zero leave a hundredth of a pixel"


def test_distances_are_never_negative(run):
    """Without the bias that the small weights have, the ReLU acts."""
    if run.name == "a":
        return
    head = ProposalHead(CONFIG).eval()
    head.load_state_dict(small_grit().proposals.state_dict())
    torch.nn.init.zeros_(head.distances.bias)
    with torch.inference_mode():
        predictions = head([features[None] for features in run.maps])

    for level, one in list(zip(LEVELS, predictions, strict=True))[2:]:
        assert_near(one.distances[0], f"unit.head_bias0.{level}.ltrb", 2e-4)
        assert (one.distances == 0).any()


def test_equal_scores_at_the_limit_all_stay():
    logits = torch.full((1, 2, 3), 2.0)
    logits[0, 0, 0] = 3.0
    empty = CellPredictions(torch.full((1, 1, 1), -9.0), torch.ones(1, 4, 1, 1))
    level = CellPredictions(logits, torch.full((1, 4, 2, 3), 0.4))
    predictions = [level, *[empty] * 4]

    for limit, count in ((1, 1), (2, 6), (6, 6)):
        config = dataclasses.replace(CONFIG, proposals=limit)
        assert len(select_proposals(predictions, 0, config)[0]) == count


def test_no_cell_above_the_threshold_gives_no_proposal():
    empty = CellPredictions(torch.full((1, 2, 2), -9.0), torch.ones(1, 4, 2, 2))
    boxes, scores = select_proposals([empty] * 5, 0, CONFIG)
    assert boxes.shape == (0, 4) and scores.shape == (0,)
