"""Records and their parts, and masks in COCO's encoding."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from monkeylib.captions import annotations
from monkeylib.captions.annotations import Mask, OcrLine, Record, reading_order
from tests.support.caption_records import line, record, region


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: region(box=(10, 10, 10, 20)), "x0 < x1"),
        (lambda: region(score=1.2), "less than or equal to 1"),
        (lambda: region(score=float("nan")), "score"),
        (lambda: Mask(size=(2, 2), counts=(1, 2)), "sum to 3, not to 2 x 2"),
    ],
)
def test_impossible_annotations_are_refused(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()


def test_box_of_a_rotated_line_contains_all_its_corners():
    rotated_line = OcrLine(text="x", quad=((30, 10), (50, 30), (40, 40), (20, 20)), confidence=1, expert="o")
    assert rotated_line.box == (20, 10, 50, 40)


def test_records_are_plain_json():
    fields = json.loads(record(regions=[region()]).model_dump_json())
    assert fields["schema_version"] == 2 and fields["regions"][0]["box"] == [10, 10, 50, 60]


def test_status_is_saved_and_recomputed_when_read():
    fields = json.loads(record(regions=[region()]).model_dump_json())
    assert fields.pop("status") == "ok"
    assert Record.model_validate({**fields, "status": "failed"}).status == "ok"


# --- masks ----------------------------------------------------------------------------------------


bits = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12))


@given(bits)
def test_masks_survive_encoding(mask):
    encoded = Mask.from_array(mask)
    assert (encoded.array() == mask).all() and encoded.area == mask.sum()
    assert (
        annotations.run_lengths_to_counts(annotations.counts_to_run_lengths(encoded.counts)) == encoded.counts
    )
    assert Mask(size=encoded.size, counts=annotations.counts_to_run_lengths(encoded.counts)) == encoded


@given(st.lists(st.integers(0, 2**31 - 1), max_size=8))
def test_any_run_lengths_survive_encoding(lengths):
    text = annotations.run_lengths_to_counts(lengths)
    assert list(annotations.counts_to_run_lengths(text)) == lengths and text.isascii()


def test_run_lengths_go_down_the_columns_and_start_with_background():
    mask = np.array([[1, 0, 0], [1, 1, 0]], dtype=bool)
    assert annotations.mask_to_run_lengths(mask) == (0, 2, 1, 1, 2)
    assert annotations.mask_to_run_lengths(~mask) == (2, 1, 1, 2)


# size of the mask, seed of its pixels, its text as pycocotools 2.0.11 gives it
PYCOCOTOOLS = [
    (12, 0, ">1<4J2OLL04ON021L0441NR1"),
    (25, 1, "P15b04M2N2N2O0OHJ05OM030M031LO41K00J2>501N2NDF<85LZ5"),
]


@pytest.mark.parametrize(("side", "seed", "text"), PYCOCOTOOLS)
def test_encoding_equals_that_of_coco(side, seed, text):
    assert Mask.from_array(_blob(side, seed)).counts == text


def test_encoding_equals_that_of_pycocotools_where_it_is_installed():
    coco = pytest.importorskip("pycocotools.mask")
    for seed in range(20):
        # pycocotools takes masks in column-major order.
        mask = _blob(50 + 10 * seed, seed)
        reference = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        encoded = Mask.from_array(mask)
        assert list(encoded.size) == reference["size"] and encoded.counts == reference["counts"].decode()
        assert coco.area({"size": list(encoded.size), "counts": encoded.counts.encode()}) == encoded.area


def _blob(side, seed):
    """A disc with a hole and some specks."""
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[:side, :side] - rng.integers(side // 3, side // 2)
    squared_distance = ys**2 + xs**2
    return (squared_distance < (side / 3) ** 2) & (squared_distance > (side / 9) ** 2) | (
        rng.random((side, side)) > 0.99
    )


@pytest.mark.parametrize("text", ["P", "~~", "0€", "\x10"])
def test_invalid_text_is_refused(text):
    with pytest.raises(ValueError, match="run lengths"):
        annotations.counts_to_run_lengths(text)


@pytest.mark.parametrize("shape", [(3,), (0, 4), (2, 2, 1)])
def test_arrays_of_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"shape \[H, W\]"):
        annotations.mask_to_run_lengths(np.zeros(shape, dtype=bool))


def test_reading_order_goes_row_by_row():
    lines = [
        line("d", (60, 31, 90, 41)),
        line("b", (60, 10, 90, 20)),
        line("c", (10, 30, 50, 40)),
        line("a", (10, 12, 50, 22)),
    ]
    assert "".join(item.text for item in reading_order(lines)) == "abcd"
    assert reading_order([]) == []


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_reading_order_is_that_of_the_page_however_it_is_turned(quarters):
    page = [
        line("first", (10, 12, 50, 22)),
        line("second", (60, 10, 90, 20)),
        line("third", (10, 30, 50, 40)),
        line("last", (60, 31, 90, 41)),
    ]

    def turn(point):
        x, y = point
        return [(x, y), (100 - y, x), (100 - x, 100 - y), (y, 100 - x)][quarters]

    turned = [item.model_copy(update={"quad": tuple(map(turn, item.quad))}) for item in page]
    upright = line("a", (90, 80, 99, 90))
    order = [item.text for item in reading_order([*turned[::-1], upright])]
    assert [text for text in order if text != "a"] == ["first", "second", "third", "last"]
