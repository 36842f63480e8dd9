"""YOLOX: its arithmetic on arrays, a session with a fixed output, and the real weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from monkeylib import assets
from monkeylib.boxes import iou
from monkeylib.captions.experts import yolox


def _encode(box, label, objectness, stride=16) -> tuple[int, np.ndarray]:
    """The row of the network's output that states a box, and its index."""
    x0, y0, x1, y1 = box
    column, row = int((x0 + x1) / 2 // stride), int((y0 + y1) / 2 // stride)
    index = sum((416 // s) ** 2 for s in yolox.STRIDES if s < stride) + row * (416 // stride) + column
    values = np.zeros(85, dtype=np.float32)
    values[:5] = [(x0 + x1) / 2 / stride - column, (y0 + y1) / 2 / stride - row,
                  np.log((x1 - x0) / stride), np.log((y1 - y0) / stride), objectness]  # fmt: skip
    values[5 + label] = 0.9
    return index, values


@pytest.mark.parametrize("stride", yolox.STRIDES)
def test_decoding_inverts_encoding(stride):
    output = np.zeros((3549, 85), dtype=np.float32)
    box = (100.0, 37.0, 180.0, 301.0)
    index, output[index] = _encode(box, 15, 0.8, stride)
    boxes, scores = yolox.decode(output)

    assert boxes.shape == (3549, 4) and scores.shape == (3549, 80)
    np.testing.assert_allclose(boxes[index], box, atol=1e-3)
    assert np.unravel_index(scores.argmax(), scores.shape) == (index, 15)
    assert scores.max() == pytest.approx(0.72)


@given(st.lists(st.tuples(*[st.integers(0, 20)] * 4, st.integers(0, 5)), min_size=1, max_size=12))
def test_suppression_keeps_the_best_of_overlapping_boxes(rows):
    boxes = np.array([(x, y, x + w + 1, y + h + 1) for x, y, w, h, _ in rows], dtype=float)
    scores = np.array([score for *_, score in rows], dtype=float)
    selected = yolox.non_maximum_suppression(boxes, scores, 0.45)
    overlaps = [[iou(a, b) for b in boxes.tolist()] for a in boxes.tolist()]

    assert all(overlaps[i][j] <= 0.45 for i in selected for j in selected if i != j)
    for lost in set(range(len(rows))) - set(selected):
        assert any(overlaps[lost][k] > 0.45 and scores[k] >= scores[lost] for k in selected)


def test_letterbox_scales_into_the_top_left_and_pads_with_grey():
    pixels, scale = yolox.letterbox(Image.new("RGB", (832, 416), (10, 20, 30)))
    assert pixels.shape == (1, 3, 416, 416) and pixels.dtype == np.float32 and scale == 0.5
    assert pixels[0, :, 207, 415].tolist() == [30, 20, 10]  # BGR
    assert pixels[0, :, 208, 0].tolist() == [114, 114, 114]


class _Session:
    """Stand-in for the network with a fixed output."""

    def __init__(self, output):
        self.output = output

    def get_inputs(self):
        return [type("Input", (), {"name": "images"})]

    def run(self, _, feed):
        assert feed["images"].shape == (1, 3, 416, 416)
        return [self.output[None]]


def test_regions_are_in_image_pixels_best_first():
    output = np.zeros((3549, 85), dtype=np.float32)
    for box, label, objectness, stride in [
        ((100, 100, 200, 200), 0, 0.9, 16),
        ((104, 100, 204, 200), 0, 0.8, 32),  # the same person, at another stride
        ((300, 20, 430, 120), 16, 1.0, 16),  # a dog that reaches beyond the image
        ((10, 10, 60, 60), 16, 0.1, 16),  # below the minimum score
    ]:
        index, output[index] = _encode(box, label, objectness, stride)

    expert = yolox.YoloxRegions(threads=1)
    expert.__dict__["_session"] = _Session(output)
    (detected,) = expert.annotate([Image.new("RGB", (832, 832))])

    assert [(item.text, round(item.score, 2)) for item in detected.regions] == [
        ("dog", 0.9),
        ("person", 0.81),
    ]
    assert detected.regions[0].box == pytest.approx((600, 40, 832, 240), abs=0.01)
    assert detected.regions[1].box == pytest.approx((200, 200, 400, 400), abs=0.01)
    assert {item.expert for item in detected.regions} == {expert.name}


def test_classes_are_cocos_eighty_in_order():
    assert len(set(yolox.NAMES)) == 80
    assert [yolox.NAMES[i] for i in (0, 5, 15, 16, 62, 79)] == [
        "person", "bus", "cat", "dog", "tv", "toothbrush",
    ]  # fmt: skip


def _fetched(name: str) -> bool:
    return assets.cache_folder(name).is_dir()


@pytest.mark.skipif(not _fetched("yolox-nano"), reason="needs `monkeylib assets fetch yolox-nano`")
def test_real_network_detects_the_cat():
    image = Image.open(assets.fetch("scikit-image-images") / "chelsea.png")
    expert = yolox.YoloxRegions(threads=1)
    expert.prepare()
    (detected,) = expert.annotate([image])

    assert detected.regions[0].text == "cat" and detected.regions[0].score > 0.5
