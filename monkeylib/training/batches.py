"""Training data, from records to the micro-batches of one device.

    records ──encode──▶ examples ──length buckets──▶ batches ──shard──▶ micro-batches ──collate──▶ tensors

Which examples make batch `i` depends on the data, the batch size and `i` alone. So a run sees the same
batches on any number of devices, and an interrupted run continues with the batch at which it stopped.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from monkeylib import signals
from monkeylib.data.records import BadRecord, Record
from monkeylib.images import ImageError
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor
from monkeylib.prompts import TokenizedConversation
from monkeylib.tiling import Grid
from monkeylib.training.data_parallel import Shard, split_evenly

# Batches that are drawn together and sorted by length, so that little is padded.
BATCHES_PER_BUCKET = 4


class RecordDataset(Protocol):
    """Map-style dataset of records."""

    def __getitem__(self, index: int) -> Record: ...


class SkippedRecords:
    """Log of bad records in a JSON-lines file, which is only ever appended to.

    A process reads the file once and logs an error once, so that a bad record costs the same however many
    there are. Processes that meet the same record log it each; `errors` returns it once.
    """

    def __init__(self, file: Path):
        self.file = file
        self._logged: set[str] | None = None  # errors in the file, as far as this process knows

    def add(self, error: Exception) -> None:
        """Append a record's error, unless this process knows that it is logged already."""
        if self._logged is None:
            self._logged = set(self.errors())
            self._end_last_line()

        if str(error) in self._logged:
            return

        self._logged.add(str(error))
        self._append(json.dumps({"error": str(error)}, ensure_ascii=False) + "\n")

    def errors(self) -> list[str]:
        """Return the logged errors, each once, in the order in which they were met."""
        if not self.file.exists():
            return []

        errors: dict[str, None] = {}
        with self.file.open(encoding="utf-8", errors="backslashreplace") as lines:
            for line in lines:
                # A full disk may have cut a line off.
                with contextlib.suppress(json.JSONDecodeError):
                    errors[json.loads(line)["error"]] = None
        return list(errors)

    def _end_last_line(self) -> None:
        """End a line that was cut off, so that the next one does not continue it."""
        if self.file.exists() and self.file.stat().st_size > 0:
            with self.file.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                is_cut_off = file.read() != b"\n"
            if is_cut_off:
                self._append("\n")

    def _append(self, text: str) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # A single write, so that lines of several processes do not mix.
            os.write(descriptor, text.encode(errors="backslashreplace"))
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class TrainingData:
    """What a run trains on and is validated with.

    Fields:
        train, validation: the records.
        digest: identifies the data: a text, or a function that returns nested fields, such as
            `Mixture.fingerprint`, which reads all files. With other data it is another run.
        offset, validation_offset: index of the first record.
        num_records, num_validation_records: how many records there are from the offset on; None for
            endless data.
        skipped: log of bad records, which are then left out. Without it a bad record is an error.
        check: called in the first process before a run begins; it raises what would end the run later.
    """

    train: RecordDataset
    validation: RecordDataset | None
    digest: str | Callable[[], dict[str, Any]]
    offset: int = 0
    validation_offset: int = 0
    num_records: int | None = None
    num_validation_records: int | None = None
    skipped: SkippedRecords | None = None
    check: Callable[[], None] | None = None


# --- examples


@dataclass(frozen=True)
class EncodedExample:
    """Token ids and labels of a conversation. Its images are opened when a step needs them.

    Fields:
        input_ids: `[T]`.
        labels: `[T]`, `IGNORE_INDEX` where there is no label.
        turns: `[T]`, the turn whose answer a token belongs to, -1 elsewhere.
        record: the record with the images.
        grids: the grid of each image.
    """

    input_ids: Tensor
    labels: Tensor
    turns: Tensor
    record: Record | None = None
    grids: tuple[Grid, ...] = ()

    @classmethod
    def from_conversation(
        cls,
        conversation: TokenizedConversation,
        record: Record | None = None,
        grids: Sequence[Grid] = (),
    ) -> EncodedExample:
        """Return a tokenized conversation as tensors."""
        return cls(
            input_ids=torch.tensor(conversation.input_ids),
            labels=torch.tensor(conversation.labels),
            turns=torch.tensor(conversation.turns),
            record=record,
            grids=tuple(grids),
        )

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_labels(self) -> int:
        """Number of tokens that carry a label."""
        return int((self.labels != IGNORE_INDEX).sum())


def pad(examples: Sequence[EncodedExample], pad_id: int) -> dict[str, Tensor]:
    """Return right-padded `input_ids`, `attention_mask`, `labels` and `turns`, each `[B, T]`."""

    def stack(tensors: list[Tensor], fill: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=fill)

    return {
        "input_ids": stack([example.input_ids for example in examples], pad_id),
        "attention_mask": stack([torch.ones_like(example.input_ids) for example in examples], 0),
        "labels": stack([example.labels for example in examples], IGNORE_INDEX),
        "turns": stack([example.turns for example in examples], -1),
    }


def pack(examples: Sequence[EncodedExample]) -> dict[str, Tensor]:
    """Return all examples in one sequence: `input_ids`, `labels`, `turns` and `position_ids`, each `[1, T]`.

    Positions start at 0 with each example. Without an attention mask, transformers takes that as the border
    across which no token attends to another.
    """
    # Turns are numbered on, so that answers of different examples stay apart.
    turns, first_turn = [], 0
    for example in examples:
        turns.append(torch.where(example.turns >= 0, example.turns + first_turn, -1))
        first_turn += int(example.turns.max()) + 1

    return {
        "input_ids": torch.cat([example.input_ids for example in examples])[None],
        "labels": torch.cat([example.labels for example in examples])[None],
        "turns": torch.cat(turns)[None],
        "position_ids": torch.cat([torch.arange(len(example)) for example in examples])[None],
    }


class ExampleEncoder:
    """Encode records, and collate examples into model inputs.

    Args:
        processor: encodes text and images.
        max_length: longest example in tokens.
        packing: put the examples of a micro-batch into one sequence, in which none attends to another,
            instead of padding them.
    """

    def __init__(self, processor: MonkeyProcessor, max_length: int, packing: bool = False):
        self.processor, self.max_length, self.packing = processor, max_length, packing
        self.layout = processor.layout

    def encode(self, record: Record) -> EncodedExample:
        """Return token ids and labels of a record, without opening its images.

        Where the grid of an image follows its shape, its size is read.

        Raises:
            BadRecord: the images and the first turn are longer than `max_length`, or the size of an image
                cannot be read.
        """
        # To the layout, an image is its number of visual tokens.
        grids = record.select_grids(self.processor.image_processor)
        turns = record.layout_turns([self.processor.visual_tokens(grid) for grid in grids])
        try:
            conversation = self.layout.encode_conversation((), turns, self.max_length)
        except ValueError as error:
            raise BadRecord(f"{record.location}: {error}") from error
        example = EncodedExample.from_conversation(conversation, record, grids)

        # Turns that do not fit are left out, with their images.
        num_turns = int(example.turns.max()) + 1
        if num_turns < len(turns):
            record = record.first_turns(num_turns)
            return replace(example, record=record, grids=example.grids[: len(record.images)])
        return example

    def encode_images(self, example: EncodedExample, side: int | None = None) -> dict[str, Tensor]:
        """Open an example's images.

        Args:
            example: the example.
            side: show each image as one view of this many pixels, in place of the processor's views.

        Returns:
            `pixel_values [V, 3, side, side]` and `grids [images, 2]`; nothing for an example without images.

        Raises:
            BadRecord: an image cannot be read.
        """
        if example.record is None or not example.record.images:
            return {}

        # The grids are those whose visual tokens were counted.
        processor, grids = self.processor.image_processor, example.grids
        if side is not None:
            processor, grids = self._one_view(side), None

        images = example.record.open_images(processor.open)
        try:
            return dict(processor(images, grids))
        except ImageError as error:  # a JPEG file that is decoded here, and not before
            raise BadRecord(f"{example.record.location}: {error}") from error

    def _one_view(self, side: int) -> MonkeyImageProcessor:
        """Return a processor that shows an image as one view of so many pixels."""
        processor = self.processor.image_processor
        return MonkeyImageProcessor(
            side,
            1,
            1,
            "global",
            processor.image_mean,
            processor.image_std,
            resize_mode=processor.resize_mode,
            exact=processor.exact,
        )

    def prompt(self, record: Record) -> dict[str, Tensor]:
        """Return the model's inputs of a record's first question.

        Raises:
            BadRecord: the record cannot be used.
        """
        # The prompt ends where the first labelled token begins.
        example = self.encode(record.first_turns(1))
        first_label = int((example.labels != IGNORE_INDEX).nonzero()[0])
        input_ids = example.input_ids[None, :first_label]
        return {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            **self.encode_images(example),
        }

    def dummy(self) -> tuple[EncodedExample, dict[str, Tensor]]:
        """Return an example without labels and its black image.

        A device that has no image in a step takes part in it with this one.
        """
        image_processor = self.processor.image_processor
        black = np.zeros((image_processor.tile_size, image_processor.tile_size, 3), np.uint8)
        images = dict(image_processor(black))

        grid = Grid(*images["grids"][0].tolist())
        ids = torch.tensor([*self.processor.image_ids(grid), self.processor.tokenizer.eos_token_id])
        return EncodedExample(ids, torch.full_like(ids, IGNORE_INDEX), torch.full_like(ids, -1)), images

    def collate(
        self, examples: Sequence[EncodedExample], images: Sequence[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return the model inputs of a micro-batch: all images one after the other, and the conversations
        padded or packed. At least one example has images."""
        with_images = [tensors for tensors in images if tensors]
        inputs = {}
        if with_images:
            inputs = {name: torch.cat([tensors[name] for tensors in with_images]) for name in with_images[0]}

        if self.packing:
            return inputs | pack(examples)
        padded = pad(examples, self.processor.tokenizer.pad_token_id)
        # Padding follows every label, so causal attention hides it anyway, and is faster without a mask.
        del padded["attention_mask"]
        return inputs | padded


# --- batches and micro-batches


class LengthBuckets:
    """Batches of examples of similar length.

    The examples of a few consecutive batches form a bucket. They are sorted by length and cut into batches
    again, whose order within the bucket is drawn at random.

    Args:
        load_example: returns example `i`, or None where a record is left out.
        length: length of an example in tokens.
        batch_size: examples in a batch.
        offset: index of the first example.
        end: index after the last example; None for endless data.
        cuts: indices at which a bucket ends early, since the run's data ended there before it was given more.
    """

    def __init__(
        self,
        load_example: Callable[[int], Any],
        length: Callable[[Any], int],
        batch_size: int,
        offset: int = 0,
        end: int | None = None,
        cuts: Sequence[int] = (),
    ):
        self.load_example, self.length, self.batch_size = load_example, length, batch_size
        self.offset, self.end = offset, end
        self._spans = list(zip([offset, *cuts], [*cuts, end], strict=True))
        # The bucket in use, since its batches are asked for one after the other.
        self._bucket = -1
        self._batches: list[list[Any]] = []
        self._num_bad = 0

    def __getitem__(self, index: int) -> list[Any]:
        """Return the examples of a batch, sorted by length."""
        self._load_bucket_of(index)
        # The same order each time, whatever was read before.
        order = np.random.default_rng(self._bucket).permutation(len(self._batches))
        return self._batches[int(order[self._locate(index)[2]])]

    @property
    def num_batches(self) -> int | None:
        """Number of batches; None for endless data."""
        if self.end is None:
            return None
        return sum(-(-(stop - start) // self.batch_size) for start, stop in self._spans if stop is not None)

    def num_bad_records(self, index: int) -> float:
        """Return how many records were left out for a batch: those of its bucket, divided evenly."""
        self._load_bucket_of(index)
        return self._num_bad / len(self._batches)

    def consumed_examples(self, index: int) -> int:
        """Return how many examples the batches before a batch hold, left-out ones included."""
        _, (first, last), position = self._locate(index)
        return min(first + position * self.batch_size, last) - self.offset

    def batch_after(self, examples: int) -> int:
        """Return the index of the batch that follows after so many consumed examples."""
        position, batches = self.offset + examples, 0
        for start, stop in self._spans:
            if stop is None or position < stop:
                return batches + -(-(position - start) // self.batch_size)
            batches += -(-(stop - start) // self.batch_size)
        return batches

    def bucket_end(self, examples: int) -> int:
        """Return how many examples are consumed when the bucket in progress after `examples` is complete."""
        _, (first, last), position = self._locate(self.batch_after(examples))
        return (last if position else first) - self.offset

    def _locate(self, index: int) -> tuple[int, tuple[int, int], int]:
        """Return a batch's bucket: its number, its first and last index, and the batch's position in it."""
        bucket = 0
        for number, (start, stop) in enumerate(self._spans, 1):
            batches = None if stop is None else -(-(stop - start) // self.batch_size)
            if batches is None or index < batches or number == len(self._spans):
                break
            index -= batches
            bucket += -(-batches // BATCHES_PER_BUCKET)

        number, position = divmod(index, BATCHES_PER_BUCKET)
        first = start + number * BATCHES_PER_BUCKET * self.batch_size
        last = first + BATCHES_PER_BUCKET * self.batch_size
        if stop is not None:
            first, last = min(first, stop), min(last, stop)
        return bucket + number, (first, last), position

    def _load_bucket_of(self, index: int) -> None:
        bucket, (first, last), _ = self._locate(index)
        if bucket == self._bucket:
            return

        # Left-out records make batches smaller, not fewer: a batch's number must not depend on them.
        loaded = [self.load_example(index) for index in range(first, last)]
        examples = [example for example in loaded if example is not None]
        examples.sort(key=self.length)
        self._batches = split_evenly(examples, -(-(last - first) // self.batch_size))
        self._bucket, self._num_bad = bucket, len(loaded) - len(examples)


class MicroBatches(Dataset):
    """Micro-batches of a run on one device: item `i` is micro-batch `i % accumulation` of batch
    `i // accumulation`.

    Args:
        batches: the batches.
        collate: turns the examples of a micro-batch, those of its whole batch, and the batch's index into
            tensors.
        num_batches: number of batches in the run.
        start: index of the batch at which a resumed run continues.
        shard: the part of each batch that this device gets.
    """

    def __init__(
        self,
        batches: LengthBuckets,
        collate: Callable[[list[Any], list[Any], int], dict[str, Any]],
        num_batches: int,
        start: int = 0,
        shard: Shard | None = None,
    ):
        self.batches, self.collate, self.shard = batches, collate, shard or Shard()
        self.count = num_batches * self.shard.accumulation
        self.first = start * self.shard.accumulation

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"expected a micro-batch from 0 to {len(self) - 1}, got {index}")

        batch_index, number = divmod(index, self.shard.accumulation)
        try:
            batch = self.batches[batch_index]
            micro_batch = self.collate(self.shard.micro_batches(batch)[number], batch, batch_index)
            return self._with_counts(micro_batch, batch_index)
        except BadRecord as error:
            # An exception of a worker process would arrive with its traceback as text; the training step
            # raises this one as it is.
            return {"failure": str(error)}

    def _with_counts(self, micro_batch: dict[str, Any], batch_index: int) -> dict[str, Any]:
        """Add the micro-batch's share of its batch's records, and of those that were left out.

        Over all devices and micro-batches the shares add up to the numbers.
        """
        parts = self.shard.world_size * self.shard.accumulation
        first, last = (self.batches.consumed_examples(index) for index in (batch_index, batch_index + 1))
        left_out = self.batches.num_bad_records(batch_index) / parts
        return micro_batch | {
            "num_records": (last - first) / parts,
            # The collator counts those whose image cannot be read, which this device alone has opened.
            "num_bad_records": micro_batch.get("num_bad_records", 0) + left_out,
        }


class Collator:
    """Turn the examples of a micro-batch into tensors.

    The loss of a micro-batch is the sum over its labels, divided by `num_items_in_batch`:

        labels of the batch / (world_size * accumulation)

    so that the mean over devices and micro-batches is the mean over all labels of the batch.

    Args:
        encoder: opens images and puts examples together.
        shard: the part of a batch that this device gets.
        skip: called with the error of a record that is left out; may raise it.
        view_side: returns the pixels of the only view at a step, None where the processor's views are used.
    """

    def __init__(
        self,
        encoder: ExampleEncoder,
        shard: Shard,
        skip: Callable[[BadRecord], None],
        view_side: Callable[[int], int | None] | None = None,
    ):
        self.encoder, self.shard, self.skip, self.view_side = encoder, shard, skip, view_side

    def __call__(
        self, micro_batch: Sequence[EncodedExample], batch: Sequence[EncodedExample], step: int
    ) -> dict[str, Any]:
        """Return the model inputs, `num_items_in_batch`, and numbers of tokens, examples and bad records."""
        side = None if self.view_side is None else self.view_side(step)
        examples, images, num_bad = [], [], 0
        for example in micro_batch:
            try:
                images.append(self.encoder.encode_images(example, side))
                examples.append(example)
            except BadRecord as error:
                self.skip(error)
                num_bad += 1
        num_examples = len(examples)

        # Every device needs an image, or its vision weights have no gradient to reduce with the others'.
        if not any(images):
            dummy, dummy_images = self.encoder.dummy()
            examples.append(dummy)
            images.append(dummy_images)

        # Over the complete batch, which every device encodes, so that no communication is needed.
        num_labels = max(sum(example.num_labels for example in batch), 1)
        return self.encoder.collate(examples, images) | {
            "num_items_in_batch": num_labels / (self.shard.world_size * self.shard.accumulation),
            "tokens": sum(len(example) for example in examples),
            "num_examples": num_examples,
            "num_batch_examples": len(batch),
            "num_bad_records": num_bad,
        }


class _ResumableSampler(Sampler):
    """Indices from the first micro-batch of a resumed run on.

    Its length counts all micro-batches, since Lightning compares it with the number that the run has seen
    since its very start.
    """

    def __init__(self, micro_batches: MicroBatches):
        self.micro_batches = micro_batches

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.micro_batches.first, len(self.micro_batches)))

    def __len__(self) -> int:
        return len(self.micro_batches)


def build_dataloader(micro_batches: MicroBatches, keep_workers: bool = False, workers: int = 1) -> DataLoader:
    """Return a loader of whole micro-batches in order.

    Worker processes prepare them two buckets ahead. With no worker, or where the system cannot fork, the
    training process prepares each when it is needed. Where there is a GPU, they lie in memory that it reads.
    """
    options: dict[str, Any] = {"pin_memory": torch.cuda.is_available()}
    if workers and "fork" in multiprocessing.get_all_start_methods():
        options |= {
            "num_workers": workers,
            "prefetch_factor": 2 * BATCHES_PER_BUCKET,
            "persistent_workers": keep_workers,
            "multiprocessing_context": "fork",
            "worker_init_fn": _follow_parent,
        }

    return _DataLoader(micro_batches, batch_size=None, sampler=_ResumableSampler(micro_batches), **options)


def _follow_parent(worker: int) -> None:
    """Let a process that prepares data end with the training process, and without a word of its own."""
    signals.obey_parent_alone()

    parent, report = os.getppid(), sys.excepthook

    # A thread of PyTorch hands tensors over. It fails where the training process is killed meanwhile.
    def report_while_parent_lives(kind: type[BaseException], *error: Any) -> None:
        is_cut_off = issubclass(kind, EOFError | ConnectionError)
        if not (is_cut_off and _has_ended(parent)):
            report(kind, *error)

    sys.excepthook = report_while_parent_lives


def _has_ended(parent: int) -> bool:
    """Return whether the parent of this process has ended, or ends within a second."""
    deadline = time.monotonic() + 1
    while os.getppid() == parent and time.monotonic() < deadline:
        time.sleep(0.01)  # its connections are closed a moment before it is gone
    return os.getppid() != parent


class _DataLoader(DataLoader):
    """Loader whose processes get no signals: they end with the training process, which completes its step."""

    def __iter__(self) -> Iterator[Any]:
        with signals.blocked():
            return super().__iter__()
