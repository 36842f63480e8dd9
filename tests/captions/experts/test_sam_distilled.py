"""The distilled SAM's expert: its arithmetic on made masks, its decoder replaced by one that knows the truth,
and the real one where it is fetched.
"""

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
def test_of_overlapping_masks_the_best_is_kept(masks, data, limit):
    scores = np.array(data.draw(st.lists(st.integers(0, 4), min_size=len(masks), max_size=len(masks))), float)
    kept = distinct(masks, scores, limit)

    assert [scores[i] for i in kept] == sorted((scores[i] for i in kept), reverse=True)
    assert all(masks[i].any() for i in kept)
    for i in kept:
        assert all(overlap(masks[i], masks[j]) <= limit + 1e-6 for j in kept if i != j)
    for lost in set(range(len(masks))) - set(kept):
        better = [k for k in kept if scores[k] >= scores[lost]]
        assert not masks[lost].any() or any(overlap(masks[lost], masks[k]) > limit - 1e-6 for k in better)


@UNHURRIED
@given(arrays.arrays(np.float32, (3, 4, 5), elements=st.floats(-6, 6, width=32)), st.floats(0.1, 3))
def test_stability_falls_with_the_offset(logits, offset):
    near, far = stability(logits, offset), stability(logits, 2 * offset)
    assert ((far <= near + 1e-9) & (near >= 0) & (near <= 1)).all()


def test_stability_of_known_masks():
    sure, shaky = np.full((4, 4), -9.0), np.full((4, 4), -9.0)
    sure[:2] = 9.0
    shaky[:2], shaky[2:] = 9.0, 0.5  # half of it hangs on the threshold

    assert stability(np.stack([sure, shaky, np.full((4, 4), -9.0)])).tolist() == [1.0, 0.5, 0.0]


@UNHURRIED
@given(st.integers(1, 9), st.tuples(st.integers(1, 99), st.integers(1, 99)))
def test_grid_points_are_the_centres_of_equal_cells(points, size):
    found = point_grid(points, size)
    assert found.shape == (points**2, 2)
    np.testing.assert_allclose(found.mean(axis=0), (size[0] / 2, size[1] / 2), rtol=1e-4)
    np.testing.assert_allclose(found.min(axis=0), (size[0] / 2 / points, size[1] / 2 / points), rtol=1e-4)


def test_mask_box_encloses_the_mask():
    mask = np.zeros((6, 8), dtype=bool)
    mask[2:4, 3:7] = True
    assert mask_box(mask) == (3.0, 2.0, 7.0, 4.0)


class Encoder:
    """Stands for the network; remembers what it was shown."""

    def get_inputs(self):
        return [type("Input", (), {"name": "input"})]

    def run(self, _, feed):
        (self.pixels,) = feed.values()
        assert self.pixels.shape == (1, 3, 1024, 1024) and self.pixels.dtype == np.float32
        return [np.zeros((1, 256, 64, 64), dtype=np.float32)]


class Decoder:
    """Stands for the network: at a point of a rectangle it answers with the rectangle, else unsurely."""

    def __init__(self, rectangles):
        self.rectangles, self.asked = rectangles, []

    def run(self, outputs, feed):
        assert outputs == ["iou_predictions", "low_res_masks"]
        assert feed["point_labels"].tolist() == [[1, -1]] and feed["mask_input"].shape == (1, 1, 256, 256)

        x, y = feed["point_coords"][0, 0]
        self.asked.append((float(x), float(y)))
        logits = np.full((1, 1, 256, 256), -8.0, dtype=np.float32)
        for (x0, y0, x1, y1), iou in self.rectangles:
            if x0 <= x < x1 and y0 <= y < y1:
                logits[0, 0, y0 // 4 : y1 // 4, x0 // 4 : x1 // 4] = 8.0
                return [np.array([[iou]], dtype=np.float32), logits]

        return [np.array([[0.2]], dtype=np.float32), logits]


def expert(rectangles, **settings) -> SamDistilled:
    made = SamDistilled(threads=1, **settings)
    made.__dict__["_sessions"] = (Encoder(), Decoder(rectangles))
    return made


def test_segments_are_in_image_pixels_largest_first():
    image = Image.new("RGB", (512, 256), (200, 10, 30))  # twice as large in the network's square
    made = expert([((0, 0, 512, 512), 0.97), ((640, 128, 896, 384), 0.95), ((896, 0, 1024, 512), 0.5)])
    (found,) = made.annotate([image])
    boxes = [region.box for region in found.regions]

    np.testing.assert_allclose(boxes, [(0, 0, 256, 256), (320, 64, 448, 192)], atol=1)
    assert [region.mask.array().shape for region in found.regions] == [(256, 512)] * 2
    assert [region.mask.area for region in found.regions] == pytest.approx([256 * 256, 128 * 128], rel=0.02)
    assert [round(region.score, 2) for region in found.regions] == [0.97, 0.95]
    assert {(region.kind, region.text, region.expert) for region in found.regions} == {
        ("segment", "", made.name)
    }

    pixels = made._sessions[0].pixels
    assert not pixels[0, :, 512:].any() and (pixels[0, 0, :512] > 1).all()  # padded below, normalised


def test_points_inside_earlier_segments_are_skipped_by_default():
    rectangles = [((0, 0, 512, 512), 0.97), ((640, 128, 896, 384), 0.95)]
    image = Image.new("RGB", (512, 256))
    few, all_of_them = expert(rectangles, points=8), expert(rectangles, points=8, ask_everywhere=True)
    (sparing,), (whole,) = few.annotate([image]), all_of_them.annotate([image])

    assert sparing == whole

    asked = few._sessions[1].asked
    assert len(all_of_them._sessions[1].asked) == 64 and len(asked) < 40
    assert sum(x < 512 for x, _ in asked) == 1  # half of the image, found at its first point
    assert few.provenance != all_of_them.provenance


def test_segment_of_the_whole_image_does_not_silence_its_points():
    rectangles = [((128, 128, 384, 384), 0.95), ((0, 0, 1024, 1024), 0.97)]
    (found,) = expert(rectangles, points=4).annotate([Image.new("RGB", (64, 64))])
    assert [round(region.mask.area / 64**2, 2) for region in found.regions] == [1.0, 0.06]


@settings(UNHURRIED, max_examples=15)
@given(st.integers(1, 90), st.integers(1, 90))
def test_segments_lie_inside_images_of_any_shape(width, height):
    made = expert([((0, 0, 1024, 1024), 0.97)], points=2)
    (found,) = made.annotate([Image.new("RGB", (width, height))])
    (region,) = found.regions

    assert region.box == (0, 0, width, height) and region.mask.area == width * height


def test_image_without_confident_segments_has_none():
    (found,) = expert([], points=3).annotate([Image.new("RGB", (40, 30))])
    assert found.regions == ()
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
    made = SamDistilled(points=3, threads=1)
    made.prepare()
    (found,) = made.annotate([Image.fromarray(pixels)])
    best = max(overlap(region.mask.array(), disc) for region in found.regions)

    assert best > 0.95
