"""Masks as COCO's run lengths, and the files that hold records."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from monkeylib.captions import annotations
from monkeylib.captions.annotations import Mask, Record, Region
from monkeylib.captions.record_files import read_records, write_records

bits = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12))


@given(bits)
def test_masks_survive_their_text(mask):
    held = Mask.from_array(mask)
    assert (held.array() == mask).all() and held.area == mask.sum()
    assert annotations.run_lengths_to_counts(annotations.counts_to_run_lengths(held.counts)) == held.counts
    assert Mask(size=held.size, counts=annotations.counts_to_run_lengths(held.counts)) == held


@given(st.lists(st.integers(0, 2**31 - 1), max_size=8))
def test_any_run_lengths_survive_their_text(lengths):
    text = annotations.run_lengths_to_counts(lengths)
    assert list(annotations.counts_to_run_lengths(text)) == lengths and text.isascii()


def test_runs_go_down_the_columns_from_the_background():
    mask = np.array([[1, 0, 0], [1, 1, 0]], dtype=bool)
    assert annotations.mask_to_run_lengths(mask) == (0, 2, 1, 1, 2)
    assert annotations.mask_to_run_lengths(~mask) == (2, 1, 1, 2)


# size of the mask, seed of its pixels, its text as pycocotools 2.0.11 gives it
PYCOCOTOOLS = [
    (12, 0, ">1<4J2OLL04ON021L0441NR1"),
    (25, 1, "P15b04M2N2N2O0OHJ05OM030M031LO41K00J2>501N2NDF<85LZ5"),
]


@pytest.mark.parametrize(("side", "seed", "text"), PYCOCOTOOLS)
def test_the_text_is_that_of_coco(side, seed, text):
    assert Mask.from_array(_blob(side, seed)).counts == text


def test_the_text_is_that_of_pycocotools_where_it_is_installed():
    coco = pytest.importorskip("pycocotools.mask")
    for seed in range(20):
        mask = _blob(50 + 10 * seed, seed)
        theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        ours = Mask.from_array(mask)
        assert list(ours.size) == theirs["size"] and ours.counts == theirs["counts"].decode()
        assert coco.area({"size": list(ours.size), "counts": ours.counts.encode()}) == ours.area


def _blob(side, seed):
    """A disc with a hole and some specks."""
    chance = np.random.default_rng(seed)
    ys, xs = np.mgrid[:side, :side] - chance.integers(side // 3, side // 2)
    away = ys**2 + xs**2
    return (away < (side / 3) ** 2) & (away > (side / 9) ** 2) | (chance.random((side, side)) > 0.99)


@pytest.mark.parametrize("text", ["P", "~~", "0€", "\x10"])
def test_text_that_is_no_mask_is_refused(text):
    with pytest.raises(ValueError, match="run lengths"):
        annotations.counts_to_run_lengths(text)


@pytest.mark.parametrize("shape", [(3,), (0, 4), (2, 2, 1)])
def test_only_two_dimensions_make_a_mask(shape):
    with pytest.raises(ValueError, match=r"shape \[H, W\]"):
        annotations.mask_to_run_lengths(np.zeros(shape, dtype=bool))


def records():
    box = (0.125, 1 / 3, 7, 9.5)
    region = Region(box=box, text="漢", score=0.1, expert="e", mask=Mask.from_array(_blob(12, 1)))
    return [Record(name=f"{n}", sha256="0" * 64, width=12, height=12, regions=[region]) for n in range(3)]


def test_the_same_records_are_the_same_bytes(tmp_path):
    for kind in ("jsonl", "parquet"):
        files = [write_records(records(), tmp_path / f"{n}.{kind}") for n in range(2)]
        assert len({hashlib.sha256(file.read_bytes()).hexdigest() for file in files}) == 1


def test_parquet_is_plain_columns(tmp_path):
    pyarrow = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.read_table(write_records(records(), tmp_path / "r.parquet"))
    row = table.to_pylist()[0]
    assert row["status"] == "ok" and row["regions"][0]["box"] == list(records()[0].regions[0].box)
    assert row["regions"][0]["mask"]["size"] == [12, 12] and table.num_rows == 3


def test_broken_parquet_is_refused(tmp_path):
    file = write_records(records(), tmp_path / "r.parquet")
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        list(read_records(file))


def test_the_status_is_written_and_computed_anew(tmp_path):
    fields = json.loads(records()[0].model_dump_json())
    assert fields.pop("status") == "ok"
    assert Record.model_validate({**fields, "status": "failed"}).status == "ok"
