"""Which rows each step, pass and device gets."""

import multiprocessing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeylib.data.records import BadRecord
from monkeylib.training.data import LengthBuckets, MicroBatches, Shard, build_dataloader


def length(number):
    return -number % 7


def rows_of(rows, *_):
    return {"rows": rows}


def passes(batches=10, start=0, batch_size=3, end=None, share=None, row=lambda n: n, collate=rows_of):
    return MicroBatches(LengthBuckets(row, length, batch_size, 100, end), collate, batches, start, share)


def test_batches_hold_every_example_once_and_similar_lengths():
    made = [passes()[i]["rows"] for i in range(10)]
    pools = [sorted(sum(made[start : start + 4], [])) for start in (0, 4)]
    assert pools == [list(range(100, 112)), list(range(112, 124))]
    spread = [max(map(length, rows)) - min(map(length, rows)) for rows in made]
    assert np.mean(spread) < 3, "of 0 to 6"
    order = [[np.mean(list(map(length, rows))) for rows in made[start : start + 4]] for start in (0, 4)]
    assert order != [sorted(means) for means in order], "short batches don't always come first"


@settings(max_examples=30)
@given(st.integers(0, 9), st.permutations(range(10)))
def test_a_batch_depends_on_its_number_alone(start, order):
    straight = [passes()[i]["rows"] for i in range(10)]
    jumping = passes(start=start)
    assert [jumping[i]["rows"] for i in order] == [straight[i] for i in order]


@settings(max_examples=50)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(1, 60))
def test_an_epoch_on_several_devices_drops_and_doubles_nothing(devices, count, batch_size, rows):
    batches = -(-rows // batch_size)
    shares = [Shard(device, devices, count) for device in range(devices)]
    seen = [
        [passes(batches, 0, batch_size, 100 + rows, share)[i]["rows"] for i in range(batches * count)]
        for share in shares
    ]
    assert sorted(sum((sum(made, []) for made in seen), [])) == list(range(100, 100 + rows))
    whole = [passes(batches, 0, batch_size, 100 + rows)[i]["rows"] for i in range(batches)]
    for number, batch in enumerate(whole):
        parts = [sum(made[number * count : (number + 1) * count], []) for made in seen]
        assert sorted(sum(parts, [])) == sorted(batch), "a batch is the same however it is divided"
        assert max(map(len, parts)) - min(map(len, parts)) <= count


def test_missing_examples_are_left_out():
    made = passes(4, end=112, row=lambda n: None if n % 5 == 0 else n)
    assert sorted(sum((made[i]["rows"] for i in range(4)), [])) == [n for n in range(100, 112) if n % 5]


def test_resumed_loader_starts_at_its_batch_and_counts_all():
    made = build_dataloader(passes(start=6))
    assert len(made) == 10
    assert [batch["rows"] for batch in made] == [passes()[i]["rows"] for i in range(6, 10)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_of_any_number_of_workers_keeps_the_order(workers):
    made = build_dataloader(passes(), workers=workers)
    assert [batch["rows"] for batch in made] == [passes()[i]["rows"] for i in range(10)]


def test_a_loader_works_where_processes_are_not_forked_by_default(monkeypatch):
    """As in Python 3.14 and on macOS; on Windows they cannot be."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)
    try:
        assert [batch["rows"] for batch in build_dataloader(passes())] == [
            passes()[i]["rows"] for i in range(10)
        ]
    finally:
        multiprocessing.set_start_method(before, force=True)
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert build_dataloader(passes(), workers=2).num_workers == 0


def test_micro_batch_index_out_of_range_raises():
    with pytest.raises(IndexError, match="expected a micro-batch from 0 to 9, got 10"):
        passes()[10]


def test_a_bad_record_comes_out_of_a_worker_as_its_sentence():
    def row(number):
        raise BadRecord(f"record {number} has no answer")

    (batch,) = build_dataloader(passes(1, row=row))
    assert batch == {"failure": "record 100 has no answer"}
