"""GRiT as a whole against the released code's values: from an image file to boxes and ids."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from monkeylib.captions.experts.grit import model
from monkeylib.captions.experts.grit.config import GritConfig
from tests.support.grit_goldens import CONFIG, FOLDER, assert_near, expected, facts, small_grit


def golden_image(name: str) -> Image.Image:
    with Image.open(FOLDER / f"{name}.png") as image:
        return image.convert("RGB")


def test_prepared_image_is_that_of_the_released_code(run):
    about = facts()["images"][run.name]
    pixels = run.image.pixels
    height, width = run.image.size

    assert [list(run.image.size), list(run.image.original_size)] == [about["resized_hw"], about["size_hw"]]
    assert list(pixels.shape[1:]) == about["padded_hw"]
    assert_near(pixels[:, ::8, ::8], f"{run.name}.input_grid8", 1e-5)

    inside = pixels[:, :height, :width]
    resized = (inside * model._STD + model._MEAN).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert hashlib.sha256(np.ascontiguousarray(resized).tobytes()).hexdigest() == about["resized_rgb_sha256"]
    assert not pixels[:, height:].any() and not pixels[:, :, width:].any(), "zeros after normalising"


@pytest.mark.parametrize("case", facts()["resize_cases_800_1333"], ids=lambda case: str(case["in_hw"]))
def test_sizes_are_those_of_the_released_code(case):
    assert list(model.resized_size(*case["in_hw"], GritConfig())) == case["out_hw"]


def test_output_is_that_of_the_released_code(run):
    boxes, scores, ids = run.detections
    outputs = facts()["images"][run.name]["outputs"]

    assert_near(boxes, f"{run.name}.output.boxes", 1e-2)
    assert_near(scores, f"{run.name}.output.scores", 5e-4)
    assert len(boxes) == len(outputs)
    for box, row, output in zip(boxes.tolist(), ids.tolist(), outputs, strict=True):
        assert box == pytest.approx(output["box"], abs=1e-2)
        assert [i for i in row[1:] if i != CONFIG.end_id] == [i for i in output["ids"] if i not in (102, 104)]

    # The caption's score comes later than the order of the boxes, which stays.
    assert scores.tolist() != sorted(scores.tolist(), reverse=True)


def test_empty_boxes_are_dropped_when_scaled_back():
    boxes = model.to_original_pixels(expected()["unit.post.boxes_in"], (142, 640), (200, 900))
    usable = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero()[:, 0]

    assert usable.tolist() == expected()["unit.post.kept"].tolist()
    torch.testing.assert_close(boxes[usable], expected()["unit.post.boxes_out"], rtol=0, atol=1e-3)

    image = model.PreparedImage(torch.zeros(3, 160, 640), (142, 640), (200, 900))
    rows = model.Detections(expected()["unit.post.boxes_in"], torch.arange(6.0), torch.arange(6)[:, None])
    detections = model._in_original_pixels(rows, image)
    assert detections.scores.tolist() == usable.tolist() and detections.ids[:, 0].tolist() == usable.tolist()


@torch.inference_mode()
def test_images_in_a_batch_are_described_as_alone():
    image = golden_image("b")
    images = [image, Image.new("RGB", image.size)]
    prepared = [model.prepare(one, CONFIG) for one in images]

    together = small_grit()(prepared)
    for one, detections in zip(prepared, together, strict=True):
        (alone,) = small_grit()([one])
        torch.testing.assert_close(detections.boxes, alone.boxes, rtol=0, atol=1e-2)
        torch.testing.assert_close(detections.scores, alone.scores, rtol=0, atol=5e-4)
        assert torch.equal(detections.ids, alone.ids)
    assert len({len(detections.boxes) for detections in together}) > 1, "they have other numbers of boxes"


@torch.inference_mode()
def test_many_boxes_are_captioned_a_few_at_a_time(monkeypatch, run):
    if run.name == "a":
        return
    sizes = []
    handle = small_grit().decoder.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    monkeypatch.setattr(model, "BOXES_AT_ONCE", 5)
    (detections,) = small_grit()([run.image])
    handle.remove()

    assert max(sizes) == 5 and sum(sizes) == len(detections.ids)
    assert torch.equal(detections.ids, run.detections.ids)


@torch.inference_mode()
def test_image_without_an_object_has_no_detection(monkeypatch):
    monkeypatch.setattr(small_grit().cascade, "config", GritConfig(score_threshold=1.0))
    (detections,) = small_grit()([model.prepare(golden_image("b"), CONFIG)])
    assert detections.boxes.shape == (0, 4) and detections.ids.shape == (0, CONFIG.max_ids)
