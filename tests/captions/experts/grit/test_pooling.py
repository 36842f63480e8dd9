"""ROIAlign against the released code's values."""

import pytest
import torch

from monkeylib.captions.experts.grit.pooling import choose_levels, pool_boxes
from tests.support.grit_goldens import assert_near, expected, facts


@pytest.mark.parametrize("bins", [7, 14])
def test_boxes_of_all_kinds_are_pooled_as_in_the_released_code(bins):
    """Inside, sticking out, outside, without width, smaller than a pixel, larger than the image."""
    maps = [expected()[f"unit.roi.{level}"] for level in ("p3", "p4", "p5")]
    pooled = pool_boxes(maps, expected()["unit.roi.boxes"], bins)

    assert_near(pooled, f"unit.roi.pooled{bins}", 2e-5)
    empty = expected()["unit.roi.boxes"][:, 0] == expected()["unit.roi.boxes"][:, 2]
    assert empty.any() and not pooled[empty].any(), "a box without width has no sample"


@pytest.mark.parametrize(
    ("boxes", "pooled", "bins"), [("stage0.boxes_in", "stage0", 7), ("detections.boxes", "text", 14)]
)
def test_golden_boxes_are_pooled_as_in_the_released_code(run, boxes, pooled, bins):
    golden_boxes = expected()[f"{run.name}.{boxes}"]
    rows = expected()[f"{run.name}.{pooled}.pooled_index"].long()
    assert_near(pool_boxes(run.maps[:3], golden_boxes, bins)[rows], f"{run.name}.{pooled}.pooled_rows", 2e-4)

    levels = facts()["images"][run.name]["roi_levels"][pooled]
    assert (choose_levels(golden_boxes, 3) + 3).tolist() == levels


def test_no_boxes_give_no_features():
    maps = [torch.ones(2, side, side) for side in (8, 4, 2)]
    assert pool_boxes(maps, torch.zeros(0, 4), 7).shape == (0, 2, 7, 7)
