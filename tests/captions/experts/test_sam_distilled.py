"""The distilled SAM: arithmetic on random masks, a decoder that knows the ground truth, the real networks."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from monkeylib import assets
from monkeylib.captions.experts import sam_distilled
from monkeylib.captions.experts.sam_distilled import SamDistilled, distinct, mask_box, point_grid, stability

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
MASKS = st.integers(1, 7).flatmap(lambda count: arrays.arrays(bool, (count, 4, 5)))


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    union = (first | second).sum()
    return float((first & second).sum() / union) if union else 0.0


@UNHURRIED
@given(MASKS, st.data(), st.floats(0.1, 0.9))
def test_best_of_overlapping_masks_is_selected(masks, data, limit):
    scores = np.array(data.draw(st.lists(st.integers(0, 4), min_size=len(masks), max_size=len(masks))), float)
    selected = distinct(masks, scores, limit)

    assert [scores[i] for i in selected] == sorted((scores[i] for i in selected), reverse=True)
    assert all(masks[i].any() for i in selected)
    for i in selected:
        assert all(overlap(masks[i], masks[j]) <= limit + 1e-6 for j in selected if i != j)
    for lost in set(range(len(masks))) - set(selected):
        better = [k for k in selected if scores[k] >= scores[lost]]
        assert not masks[lost].any() or any(overlap(masks[lost], masks[k]) > limit - 1e-6 for k in better)


@UNHURRIED
@given(arrays.arrays(np.float32, (3, 4, 5), elements=st.floats(-6, 6, width=32)), st.floats(0.1, 3))
def test_stability_falls_with_the_offset(logits, offset):
    near, far = stability(logits, offset), stability(logits, 2 * offset)
    assert ((far <= near + 1e-9) & (near >= 0) & (near <= 1)).all()


def test_stability_of_two_masks():
    stable, unstable = np.full((4, 4), -9.0), np.full((4, 4), -9.0)
    stable[:2] = 9.0
    unstable[:2] = 9.0
    unstable[2:] = 0.5  # this half depends on the threshold

    assert stability(np.stack([stable, unstable, np.full((4, 4), -9.0)])).tolist() == [1.0, 0.5, 0.0]


@UNHURRIED
@given(st.integers(1, 9), st.tuples(st.integers(1, 99), st.integers(1, 99)))
def test_grid_points_are_the_centres_of_equal_cells(points, size):
    centres = point_grid(points, size)
    assert centres.shape == (points**2, 2)
    np.testing.assert_allclose(centres.mean(axis=0), (size[0] / 2, size[1] / 2), rtol=1e-4)
    np.testing.assert_allclose(centres.min(axis=0), (size[0] / 2 / points, size[1] / 2 / points), rtol=1e-4)


def test_mask_box_encloses_the_mask():
    mask = np.zeros((6, 8), dtype=bool)
    mask[2:4, 3:7] = True
    assert mask_box(mask) == (3.0, 2.0, 7.0, 4.0)


class Encoder:
    """Stand-in for the network that remembers its input."""

    def get_inputs(self):
        return [type("Input", (), {"name": "input"})]

    def run(self, _, feed):
        (self.pixels,) = feed.values()
        assert self.pixels.shape == (1, 3, 1024, 1024) and self.pixels.dtype == np.float32
        return [np.zeros((1, 256, 64, 64), dtype=np.float32)]


class Decoder:
    """Stand-in for the network: returns the rectangle around a point, else a mask of low expected IoU."""

    def __init__(self, rectangles):
        self.rectangles = rectangles
        self.points = []

    def run(self, outputs, feed):
        assert outputs == ["iou_predictions", "low_res_masks"]
        assert feed["point_labels"].tolist() == [[1, -1]] and feed["mask_input"].shape == (1, 1, 256, 256)

        x, y = feed["point_coords"][0, 0]
        self.points.append((float(x), float(y)))
        logits = np.full((1, 1, 256, 256), -8.0, dtype=np.float32)
        for (x0, y0, x1, y1), iou in self.rectangles:
            if x0 <= x < x1 and y0 <= y < y1:
                logits[0, 0, y0 // 4 : y1 // 4, x0 // 4 : x1 // 4] = 8.0
                return [np.array([[iou]], dtype=np.float32), logits]

        return [np.array([[0.2]], dtype=np.float32), logits]


def expert(rectangles, **settings) -> SamDistilled:
    sam = SamDistilled(threads=1, **settings)
    sam.__dict__["_sessions"] = (Encoder(), Decoder(rectangles))
    return sam


def test_segments_are_in_image_pixels_largest_first():
    image = Image.new("RGB", (512, 256), (200, 10, 30))  # twice as large in the network's square
    sam = expert([((0, 0, 512, 512), 0.97), ((640, 128, 896, 384), 0.95), ((896, 0, 1024, 512), 0.5)])
    (output,) = sam.annotate([image])
    boxes = [region.box for region in output.regions]

    np.testing.assert_allclose(boxes, [(0, 0, 256, 256), (320, 64, 448, 192)], atol=1)
    assert [region.mask.array().shape for region in output.regions] == [(256, 512)] * 2
    assert [region.mask.area for region in output.regions] == pytest.approx([256 * 256, 128 * 128], rel=0.02)
    assert [round(region.score, 2) for region in output.regions] == [0.97, 0.95]
    assert {(region.kind, region.text, region.expert) for region in output.regions} == {
        ("segment", "", sam.name)
    }

    pixels = sam._sessions[0].pixels
    assert not pixels[0, :, 512:].any() and (pixels[0, 0, :512] > 1).all()  # padded below, normalised


def test_points_inside_earlier_segments_are_skipped_by_default():
    rectangles = [((0, 0, 512, 512), 0.97), ((640, 128, 896, 384), 0.95)]
    image = Image.new("RGB", (512, 256))
    few, all_of_them = expert(rectangles, points=8), expert(rectangles, points=8, prompt_everywhere=True)
    (sparse_output,), (dense_output,) = few.annotate([image]), all_of_them.annotate([image])

    assert sparse_output == dense_output

    prompted = few._sessions[1].points
    assert len(all_of_them._sessions[1].points) == 64 and len(prompted) < 40
    assert sum(x < 512 for x, _ in prompted) == 1, "half of the image is segmented at its first point"
    assert few.provenance != all_of_them.provenance


def test_points_in_a_segment_of_the_full_image_are_not_skipped():
    rectangles = [((128, 128, 384, 384), 0.95), ((0, 0, 1024, 1024), 0.97)]
    (output,) = expert(rectangles, points=4).annotate([Image.new("RGB", (64, 64))])
    assert [round(region.mask.area / 64**2, 2) for region in output.regions] == [1.0, 0.06]


@settings(UNHURRIED, max_examples=15)
@given(st.integers(1, 90), st.integers(1, 90))
def test_segments_lie_inside_images_of_any_shape(width, height):
    sam = expert([((0, 0, 1024, 1024), 0.97)], points=2)
    (output,) = sam.annotate([Image.new("RGB", (width, height))])
    (region,) = output.regions

    assert region.box == (0, 0, width, height) and region.mask.area == width * height


def test_image_without_confident_segments_has_none():
    (output,) = expert([], points=3).annotate([Image.new("RGB", (40, 30))])
    assert output.regions == ()
    with pytest.raises(ValueError, match="at least one point a side, got points=0"):
        SamDistilled(points=0)


@pytest.mark.skipif(
    not assets.cache_folder(sam_distilled.ASSET).is_dir(), reason="needs `monkeylib assets fetch`"
)
def test_real_network_segments_a_disc_on_plain_ground():
    pixels = np.full((120, 160, 3), 235, dtype=np.uint8)
    ys, xs = np.mgrid[:120, :160]
    disc = (xs - 50) ** 2 + (ys - 60) ** 2 < 30**2
    pixels[disc] = (190, 30, 40)
    sam = SamDistilled(points=3, threads=1)
    sam.prepare()
    (output,) = sam.annotate([Image.fromarray(pixels)])
    best = max(overlap(region.mask.array(), disc) for region in output.regions)

    assert best > 0.95
