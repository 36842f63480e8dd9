"""The arithmetic of boxes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeylib import boxes

_sides = st.integers(0, 6)
_boxes = st.tuples(_sides, _sides, st.integers(1, 5), st.integers(1, 5)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


def _pixels(box):
    return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}


@given(_boxes, _boxes)
def test_areas_count_pixels(first, second):
    assert boxes.area(first) == len(_pixels(first))
    assert boxes.intersection_area(first, second) == len(_pixels(first) & _pixels(second))


@given(_boxes, _boxes)
def test_box_contains_another_when_all_its_pixels_do(first, second):
    assert boxes.contains(first, second) == (_pixels(second) <= _pixels(first))


@given(_boxes, _boxes)
def test_enclosing_box_is_the_smallest_that_contains_both(first, second):
    union = boxes.enclosing_box(first, second)
    assert boxes.contains(union, first) and boxes.contains(union, second)

    columns, rows = zip(*(_pixels(first) | _pixels(second)), strict=True)
    assert union == (min(columns), min(rows), max(columns) + 1, max(rows) + 1)


@pytest.mark.parametrize(
    ("second", "expected"),
    [((4, 0, 8, 4), True), ((4, 4, 8, 8), True), ((1, 1, 2, 2), True), ((4.1, 0, 8, 4), False)],
)
def test_boxes_touch_at_edges_and_corners(second, expected):
    assert boxes.touch((0, 0, 4, 4), second) is expected
    assert boxes.touch(second, (0, 0, 4, 4)) is expected


def test_bounding_box_holds_all_points():
    assert boxes.bounding_box([(3, 1), (9, 4), (8, 7), (2, 4)]) == (2, 1, 9, 7)


def test_clipped_box_lies_in_the_image():
    assert boxes.clip((-3, 2, 50, 90), (40, 60)) == (0.0, 2, 40.0, 60.0)


def test_boxes_without_area_overlap_nothing():
    flat = (2, 2, 2, 5)
    assert boxes.iou(flat, flat) == 0
    assert boxes.overlap_of_smaller(flat, (0, 0, 9, 9)) == 0


def test_centre_halves_both_sides():
    assert boxes.center((2, 1, 5, 9)) == (3.5, 5.0)
    assert boxes.normalise((2, 1, 5, 9), (10, 20)) == (0.2, 0.05, 0.5, 0.45)


@given(_boxes, _boxes, st.integers(-50, 50), st.integers(1, 9))
def test_iou_is_symmetric_and_depends_on_neither_position_nor_unit(first, second, shift, scale):
    value = boxes.iou(first, second)
    assert 0 <= value <= 1 and value == boxes.iou(second, first)
    assert boxes.iou(first, first) == 1
    moved = [tuple(scale * (side + shift) for side in box) for box in (first, second)]
    assert boxes.iou(*moved) == pytest.approx(value)


@given(_boxes, _boxes)
def test_iou_is_the_share_of_common_pixels(first, second):
    first_pixels, second_pixels = _pixels(first), _pixels(second)
    assert boxes.iou(first, second) == pytest.approx(
        len(first_pixels & second_pixels) / len(first_pixels | second_pixels)
    )


def test_released_iou_takes_distinct_boxes_for_one():
    box = (0.0, 0.0, 0.1, 0.1)
    touching, apart = (0.1, 0.0, 0.2, 0.1), (0.25, 0.0, 0.35, 0.1)
    assert boxes.iou(box, touching) == boxes.iou(box, apart) == 0
    assert boxes.released_iou(box, touching) == pytest.approx(0.8333, abs=1e-4)
    assert boxes.released_iou(box, apart) == pytest.approx(0.6296, abs=1e-4)


@given(_boxes, _boxes)
def test_overlap_of_the_smaller_box_counts_common_pixels(first, second):
    first_pixels, second_pixels = _pixels(first), _pixels(second)
    expected = len(first_pixels & second_pixels) / min(len(first_pixels), len(second_pixels))
    assert boxes.overlap_of_smaller(first, second) == pytest.approx(expected)


def test_boxes_are_read_row_by_row():
    # The second box is a little higher than the first, and on one level with it; the third is below.
    assert boxes.reading_order([(0, 10, 5, 20), (9, 8, 14, 18), (3, 25, 8, 35)]) == [0, 1, 2]
    assert boxes.reading_order([(3, 25, 8, 35), (9, 8, 14, 18), (0, 10, 5, 20)]) == [2, 1, 0]
    assert boxes.reading_order([]) == []
