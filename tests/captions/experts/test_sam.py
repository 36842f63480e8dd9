"""SAM's masks against the pipeline of transformers, on tiny weights."""

import numpy as np
import pytest
import torch
from transformers import MaskGenerationPipeline

from monkeylib.captions.annotations import Mask
from monkeylib.captions.experts import sam
from tests.support.tiny_experts import IMAGES

pytestmark = pytest.mark.usefixtures("tiny")

SAM = {"points": 6, "stability": 0.5}


def suppress(boxes: np.ndarray, scores: np.ndarray, overlap: float) -> list[int]:
    """torchvision's non-maximum suppression in plain loops: indices, best first."""
    selected = []
    for index in np.argsort(-scores, kind="stable"):
        for other in selected:
            low = np.maximum(boxes[index, :2], boxes[other, :2])
            high = np.minimum(boxes[index, 2:], boxes[other, 2:])
            shared = np.prod(np.clip(high - low, 0, None))
            areas = sum(np.prod(boxes[i, 2:] - boxes[i, :2]) for i in (index, other))
            if shared > overlap * (areas - shared):
                break
        else:
            selected.append(index)

    return selected


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: str(image.size))
def test_masks_match_transformers_pipeline(image):
    expert = sam.SamMasks(**SAM, points_at_once=7)
    network, processor = expert.parts
    pipe = MaskGenerationPipeline(model=network, image_processor=processor)
    masks, boxes, scores = [], [], []
    with torch.inference_mode():
        for part in pipe.preprocess(image, points_per_batch=11, points_per_crop=6):
            decoded = pipe._forward(part, pred_iou_thresh=0.88, stability_score_thresh=0.5)
            masks += decoded["masks"]
            boxes.append(decoded["boxes"])
            scores.append(decoded["iou_scores"])

    boxes, scores = torch.cat(boxes).numpy(), torch.cat(scores).numpy()
    selected = suppress(boxes.astype(float), scores, sam.OVERLAP)
    # The same masks from the expert, in another order and with boxes that end after the last pixel.
    (output,) = expert.annotate([image])

    assert 0 < len(selected) < len(masks)

    expert_masks = [(region.mask, region.box) for region in output.regions]
    reference_masks = [
        (Mask(size=tuple(masks[i]["size"]), counts=masks[i]["counts"]), (*boxes[i][:2], *(boxes[i][2:] + 1)))
        for i in selected
    ]

    assert sorted(expert_masks, key=str) == sorted(
        ((m, tuple(map(float, b))) for m, b in reference_masks), key=str
    )
    np.testing.assert_allclose(
        [region.score for region in output.regions], np.clip(scores[selected], 0, 1), rtol=1e-4
    )


def test_masks_do_not_depend_on_the_batch_size(monkeypatch):
    together = sam.SamMasks(**SAM, batch_size=3, points_at_once=36).annotate(IMAGES)
    monkeypatch.setattr(sam, "_ENLARGED", 1)  # one mask at once
    alone = sam.SamMasks(**SAM, batch_size=1, points_at_once=5).annotate(IMAGES)

    for first, second in zip(together, alone, strict=True):
        assert [region.mask for region in first.regions] == [region.mask for region in second.regions]
        assert [region.box for region in first.regions] == [region.box for region in second.regions]


def test_region_is_the_box_of_its_mask_without_text():
    for image, output in zip(IMAGES, sam.SamMasks(**SAM).annotate(IMAGES), strict=True):
        for region in output.regions:
            inside = region.mask.array()
            assert inside.shape == (image.height, image.width) and region.kind == "segment"
            (ys, xs) = np.nonzero(inside)
            assert region.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            assert region.text == "" and 0.88 < region.score <= 1 and region.expert == "sam"


def test_thresholds_equal_segment_anythings_and_are_in_the_settings():
    expert = sam.SamMasks()
    stated = {name: expert.settings[name] for name in ("points", "predicted_iou", "stability", "overlap")}

    assert stated == {"points": 32, "predicted_iou": 0.88, "stability": 0.95, "overlap": 0.7}
    assert expert._grid((64, 48)).shape == (32 * 32, 2)

    strict = sam.SamMasks(points=6, predicted_iou=9.0, stability=0.5)
    assert [output.regions for output in strict.annotate(IMAGES)] == [(), (), ()]
