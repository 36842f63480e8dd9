"""Which examples each step, micro-batch and device gets."""

import io
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeylib.data.records import BadRecord, Record
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.messages import ImagePart, Message
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor
from monkeylib.training.batches import ExampleEncoder, LengthBuckets, MicroBatches, build_dataloader
from monkeylib.training.data_parallel import Shard


def length_of(number):
    return -number % 7


def collate(examples, *_):
    return {"examples": examples}


def micro_batches(
    batches=10, start=0, batch_size=3, end=None, shard=None, load=lambda number: number, collate=collate
):
    """Return micro-batches of examples that are their own numbers, from 100 on."""
    buckets = LengthBuckets(load, length_of, batch_size, 100, end)
    return MicroBatches(buckets, collate, batches, start, shard)


def examples_of(dataset, count=10):
    return [dataset[number]["examples"] for number in range(count)]


def test_batches_hold_every_example_once_and_similar_lengths():
    batches = examples_of(micro_batches())
    buckets = [batches[0:4], batches[4:8]]
    assert sorted(sum(buckets[0], [])) == list(range(100, 112))
    assert sorted(sum(buckets[1], [])) == list(range(112, 124))

    # Lengths go from 0 to 6.
    spreads = [max(map(length_of, batch)) - min(map(length_of, batch)) for batch in batches]
    assert np.mean(spreads) < 3

    # Short batches don't always come first.
    mean_lengths = [[np.mean(list(map(length_of, batch))) for batch in bucket] for bucket in buckets]
    assert mean_lengths != [sorted(means) for means in mean_lengths]


@settings(max_examples=30)
@given(st.integers(0, 9), st.permutations(range(10)))
def test_batch_depends_only_on_its_number(start, order):
    in_order = examples_of(micro_batches())
    resumed = micro_batches(start=start)
    assert [resumed[number]["examples"] for number in order] == [in_order[number] for number in order]


@settings(max_examples=50)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(1, 60))
def test_epoch_on_several_devices_drops_and_repeats_nothing(devices, accumulation, batch_size, num_examples):
    num_batches = -(-num_examples // batch_size)
    by_device = []
    for device in range(devices):
        shard = Shard(device, devices, accumulation)
        dataset = micro_batches(num_batches, 0, batch_size, 100 + num_examples, shard)
        by_device.append(examples_of(dataset, num_batches * accumulation))

    all_examples = [example for batches in by_device for batch in batches for example in batch]
    assert sorted(all_examples) == list(range(100, 100 + num_examples))

    # A batch holds the same examples however it is divided.
    undivided = examples_of(micro_batches(num_batches, 0, batch_size, 100 + num_examples), num_batches)
    for number, batch in enumerate(undivided):
        steps = slice(number * accumulation, (number + 1) * accumulation)
        shards = [sum(batches[steps], []) for batches in by_device]
        assert sorted(sum(shards, [])) == sorted(batch)
        assert max(map(len, shards)) - min(map(len, shards)) <= accumulation


def test_missing_examples_are_left_out():
    dataset = micro_batches(4, end=112, load=lambda number: None if number % 5 == 0 else number)
    examples = sum(examples_of(dataset, 4), [])
    assert sorted(examples) == [number for number in range(100, 112) if number % 5]


def test_resumed_loader_starts_at_its_batch_and_counts_all():
    loader = build_dataloader(micro_batches(start=6))
    assert len(loader) == 10
    assert [batch["examples"] for batch in loader] == examples_of(micro_batches())[6:]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_keeps_the_order_with_any_number_of_workers(workers):
    loader = build_dataloader(micro_batches(), workers=workers)
    assert [batch["examples"] for batch in loader] == examples_of(micro_batches())


def test_loader_works_where_processes_are_not_forked_by_default():
    """As in Python 3.14 and on macOS."""
    default = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)
    try:
        batches = [batch["examples"] for batch in build_dataloader(micro_batches())]
    finally:
        multiprocessing.set_start_method(default, force=True)
    assert batches == examples_of(micro_batches())


def test_loader_has_no_workers_where_processes_cannot_be_forked(monkeypatch):
    """As on Windows."""
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert build_dataloader(micro_batches(), workers=2).num_workers == 0


def test_micro_batch_index_out_of_range_raises():
    with pytest.raises(IndexError, match="expected a micro-batch from 0 to 9, got 10"):
        micro_batches()[10]


def test_bad_record_leaves_a_worker_as_its_message():
    def load(number):
        raise BadRecord(f"record {number} has no answer")

    (batch,) = build_dataloader(micro_batches(1, load=load))
    assert batch == {"failure": "record 100 has no answer"}


def _fail_beside_a_worker():
    loader = build_dataloader(_Endless(), keep_workers=True)
    for _ in loader:
        # The exception's traceback keeps the loader's worker alive while the process ends.
        raise RuntimeError("broken")


class _Endless:
    """Micro-batches of nothing."""

    first = 0

    def __len__(self):
        return 1_000

    def __getitem__(self, number):
        return number


def test_process_that_fails_ends_with_its_workers():
    process = multiprocessing.get_context("forkserver").Process(target=_fail_beside_a_worker)
    process.start()
    process.join(60)
    ended, code = not process.is_alive(), process.exitcode
    process.kill()
    assert ended and code == 1


def interleaved_record(make_image):
    """Return a conversation with an image within its first question and one in its second."""
    first, second, third = (ImagePart(make_image(number)) for number in range(3))
    messages = (
        Message("system", ("be brief",)),
        Message("user", ("is ", first, " or ", second, " cheaper?")),
        Message("assistant", ("the first",)),
        Message("user", (third, "and this?")),
        Message("assistant", ("no",)),
    )
    return Record("0", messages, "r", "r", prompt="vqa", separator=" ")


def test_images_stand_at_their_places_among_the_tokens(processor, make_image):
    record = interleaved_record(make_image)
    layout, tokens = processor.layout, processor.visual_tokens()
    example = ExampleEncoder(processor, 10_000).encode(record)

    span, text = layout.image_ids(tokens), layout.text_ids
    answers = [layout.answer_ids("the first"), layout.answer_ids("no")]
    first_turn = [
        *text("be brief "),
        *text("is "),
        *span,
        *text("  or "),
        *span,
        *text("  cheaper? Answer: "),
    ]
    second_turn = [*span, *text(" and this? Answer: ")]
    expected = [*first_turn, *answers[0], *second_turn, *answers[1]]
    assert example.input_ids.tolist() == expected
    labels = [label for label in example.labels.tolist() if label != IGNORE_INDEX]
    assert labels == [*answers[0], *answers[1]]

    # The images come in the order of their spans.
    images = ExampleEncoder(processor, 10_000).encode_images(example)
    alone = [processor.image_processor(record.open_images()[number]) for number in range(3)]
    assert torch.equal(images["pixel_values"], torch.cat([views["pixel_values"] for views in alone]))


def test_damaged_jpeg_that_is_decoded_late_is_a_bad_record(processor, make_image):
    file = io.BytesIO()
    make_image(0, 200, 200).save(file, "JPEG", quality=95)
    content = file.getvalue()
    images = MonkeyImageProcessor(processor.image_processor.tile_size, exact=False)
    encoder = ExampleEncoder(MonkeyProcessor(images, processor.tokenizer, processor.queries), 10_000)

    def encode(content):
        record = Record.from_turns("a", (content,), [("what?", "this")], "data", "data, record 1")
        return encoder.encode_images(encoder.encode(record))

    assert encode(content)["pixel_values"].dtype == torch.uint8
    with pytest.raises(BadRecord, match="data, record 1: "):
        encode(content[: len(content) // 2])


def test_turn_that_does_not_fit_is_left_out_with_its_image(processor, make_image):
    record = interleaved_record(make_image)
    encoder = ExampleEncoder(processor, 10_000)
    length = len(encoder.encode(record))

    cut = ExampleEncoder(processor, length - 1).encode(record)
    assert cut.input_ids.tolist() == encoder.encode(record.first_turns(1)).input_ids.tolist()
    assert cut.input_ids.tolist().count(1) == 2
    assert len(encoder.encode_images(cut)["grids"]) == 2


@pytest.mark.parametrize("is_killed", [True, False])
def test_worker_reports_a_lost_connection_unless_its_parent_was_killed(is_killed, tmp_path):
    """As the thread that hands tensors over does, which fails with the training process."""
    program = tmp_path / "program.py"
    program.write_text(
        f"""
import os, signal, sys, time
from monkeylib.training.batches import _follow_parent

read_end, write_end = os.pipe()
parent = os.getpid()
if os.fork():
    os.read(read_end, 1)
    if {is_killed}:
        os.kill(parent, signal.SIGKILL)
    os.wait()
else:
    _follow_parent(0)
    os.write(write_end, b"x")
    time.sleep(0.2)
    try:
        raise ConnectionResetError(104, "Connection reset by peer")
    except ConnectionResetError:
        sys.excepthook(*sys.exc_info())
    sys.stderr.flush()
    os._exit(0)
"""
    )
    process = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert ("ConnectionResetError" in process.stderr) is not is_killed
