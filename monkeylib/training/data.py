"""Which rows each step and each device gets: rows of similar length together, the same for every run with the
same seed, none twice and none left out."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from monkeylib.data.collate import Encoded, encode, pack, pad
from monkeylib.data.records import BadRecord, Record
from monkeylib.data.synthetic import make_sample
from monkeylib.data.synthetic.tasks import training_turns
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor
from monkeylib.profiles import Profile
from monkeylib.prompts import IGNORE_INDEX

# Which of several signs is asked about is the hardest thing to find in several views.
MIX = {"general": 0.2, "scene_text": 0.42, "document": 0.38}


class WorldRecords:
    """Record `n`: image `n` of a split of the nano world, and a conversation about it."""

    def __init__(self, profile: Profile, split: str):
        self.size, self.split = profile.image_size, split
        self.scale = 1.0 if profile.views != "global" else profile.tile_size / self.size[0]
        self.name = f"nano-{split}"

    def __getitem__(self, number: int) -> Record:
        family = str(np.random.default_rng([31, number]).choice(list(MIX), p=list(MIX.values())))
        sample = make_sample(number, self.split, self.size, family)
        # Visual tokens are most of a row: more text costs little time and teaches more.
        turns = training_turns(
            sample, np.random.default_rng([13, number]), self.scale, budget=300, detailed=0.25, independent=True
        )
        name = f"{self.name}-{number}"
        return Record(name, (sample.image,), tuple(turns), self.name, name)


@dataclass(frozen=True)
class Row:
    """A record with its token ids; its images are opened when a step needs them."""

    record: Record
    encoded: Encoded

    def __len__(self) -> int:
        return len(self.encoded.ids)

    @property
    def supervised(self) -> int:
        """Tokens that are learned."""
        return int((self.encoded.labels != IGNORE_INDEX).sum())


class RowMaker:
    """Encodes records and puts rows together into what the model takes.

    Args:
        max_length: tokens of a row at most.
        packed: put the rows of a pass into one sequence, in which none sees another, instead of padding.
    """

    def __init__(self, processor: MonkeyProcessor, max_length: int, packed: bool = False):
        self.processor, self.max_length, self.packed = processor, max_length, packed

    def encode(self, record: Record) -> Row:
        """Token ids and labels of a record, without opening its images.

        Raises:
            BadRecord: its images and its first turn don't fit.
        """
        images = [self.processor.visual_tokens()] * len(record.images)
        try:
            encoded = encode(self.processor.layout, images, record.turns, self.max_length)
        except ValueError as error:
            raise BadRecord(f"{record.location}: {error}") from error
        return Row(record, encoded)

    def views(self, row: Row, side: int | None = None) -> dict[str, Tensor]:
        """`pixel_values [V, 3, tile, tile]` and `grids [images, 2]` of a row's images; nothing of a row
        without images.

        Args:
            side: see images through one view of so many pixels, in place of the processor's views.

        Raises:
            BadRecord: an image cannot be read.
        """
        images = row.record.open_images()
        usual = self.processor.image_processor
        if side is not None:
            usual = MonkeyImageProcessor(
                side, 1, 1, "global", usual.image_mean, usual.image_std, resize_mode=usual.resize_mode
            )
        return dict(usual(images)) if images else {}

    def blank(self) -> tuple[Row, dict[str, Tensor]]:
        """A row from which nothing is learned, with a black image: where a device has none left, it takes
        part in the step with this one."""
        span = self.processor.image_ids()
        ids = torch.tensor([*span, self.processor.tokenizer.eos_token_id])
        encoded = Encoded(ids, torch.full_like(ids, IGNORE_INDEX), torch.full_like(ids, -1))
        side = self.processor.image_processor.tile_size
        views = self.processor.image_processor(np.zeros((side, side, 3), np.uint8))
        return Row(Record("blank", (), (), "", ""), encoded), dict(views)

    def collate(self, rows: Sequence[Row], views: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Views of all images one after the other (there is one at least), and the conversations padded, or
        packed into one row."""
        shown = [features for features in views if features]
        images = {
            key: torch.cat([features[key] for features in shown]) for key in (shown[0] if shown else ())
        }
        encoded = [row.encoded for row in rows]
        if self.packed:
            return images | pack(encoded)
        padded = pad(encoded, self.processor.tokenizer.pad_token_id)
        del padded["attention_mask"]  # of padding after every label: causal attention without it is faster
        return images | padded


POOL = 4  # batches drawn together and sorted by length, so that little is padded


@dataclass(frozen=True)
class Share:
    """Which part of each batch this device gets, and in how many passes: the rows of a batch, sorted by
    length, are dealt to `devices x passes` hands in turn."""

    device: int = 0
    devices: int = 1
    passes: int = 1

    def hands(self, rows: list[Any]) -> list[list[Any]]:
        """The rows of each pass of this device; a hand may be empty."""
        count = self.devices * self.passes
        edges = np.linspace(0, len(rows), count + 1).round().astype(int)
        hands = [rows[start:end] for start, end in zip(edges, edges[1:], strict=False)]
        return hands[self.device :: self.devices]


class Pools:
    """Batch `i` of an endless supply of rows.

    Args:
        row: makes row number `n`; None where there is none to train on.
        length: of a row, in tokens.
        batch_size: rows in a batch.
        offset: number of the first row.
        end: number after the last row; without it, rows never end.
    """

    def __init__(
        self,
        row: Callable[[int], Any],
        length: Callable[[Any], int],
        batch_size: int,
        offset: int = 0,
        end: int | None = None,
    ):
        self.row, self.length, self.batch_size = row, length, batch_size
        self.offset, self.end = offset, end
        self._pooled: tuple[int, list[list[Any]]] = (-1, [])

    def __getitem__(self, index: int) -> list[Any]:
        """The rows of a batch, sorted by length."""
        pool, place = divmod(index, POOL)
        if self._pooled[0] != pool:
            self._pooled = pool, self._batches(pool)
        batches = self._pooled[1]
        return batches[int(np.random.default_rng(pool).permutation(len(batches))[place])]

    def _batches(self, pool: int) -> list[list[Any]]:
        first = self.offset + pool * POOL * self.batch_size
        last = first + POOL * self.batch_size
        last = last if self.end is None else min(last, self.end)
        rows = [row for row in map(self.row, range(first, last)) if row is not None]
        count = -(-(last - first) // self.batch_size)
        edges = np.linspace(0, len(rows), count + 1).round().astype(int)
        rows.sort(key=self.length)
        return [rows[start:end] for start, end in zip(edges, edges[1:], strict=False)]


class Passes(Dataset):
    """Pass `i` of a run on one device: `share.passes` of them make an optimiser step.

    Args:
        pools: the batches.
        collate: the rows of a pass, all rows of its batch, and the batch's number, to tensors.
        batches: how many there are in all.
        start: number of the first batch, when a run goes on where it stopped.
        share: what this device gets.
    """

    def __init__(
        self,
        pools: Pools,
        collate: Callable[[list[Any], list[Any], int], dict[str, Any]],
        batches: int,
        start: int = 0,
        share: Share | None = None,
    ):
        self.pools, self.collate, self.share = pools, collate, share or Share()
        self.count, self.first = batches * self.share.passes, start * self.share.passes

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"Pass {index} was asked for, there are {len(self)}.")
        batch, number = divmod(index, self.share.passes)
        try:
            rows = self.pools[batch]
            return self.collate(self.share.hands(rows)[number], rows, batch)
        except BadRecord as error:  # told as it is; a worker's exception comes with its traceback as text
            return {"failure": str(error)}


class _Onwards(Sampler):
    """Numbers of the passes from the first on. Its length is that of all of them, since Lightning compares it
    with what a resumed run has seen from the very first on.
    """

    def __init__(self, passes: Passes):
        self.passes = passes

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.passes.first, len(self.passes)))

    def __len__(self) -> int:
        return len(self.passes)


def loader(passes: Passes, keep_worker: bool = False, workers: int = 1) -> DataLoader:
    """Workers prepare whole passes in order, a pool ahead; without any, or where the system cannot fork them,
    the process does it itself, when each is needed."""
    workers = workers if "fork" in multiprocessing.get_all_start_methods() else 0
    beside = {
        "prefetch_factor": 2 * POOL,
        "persistent_workers": keep_worker,
        "multiprocessing_context": "fork",
    }
    return DataLoader(
        passes,
        batch_size=None,
        sampler=_Onwards(passes),
        num_workers=workers,
        **beside if workers else {},
    )


class Skipped:
    """Notes bad records in a file of JSON lines, one for each, whichever process meets it."""

    def __init__(self, file: Path):
        self.file = file

    def note(self, error: Exception) -> None:
        """Add a record's error, unless it is there already."""
        if str(error) in self.listed():
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"error": str(error)}, ensure_ascii=False) + "\n"
        opened = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(
                opened, line.encode(errors="backslashreplace")
            )  # one write: whole, beside other processes
        finally:
            os.close(opened)

    def listed(self) -> list[str]:
        """The errors, each once, in the order in which they were met."""
        if not self.file.exists():
            return []
        lines = self.file.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
        return list(dict.fromkeys(json.loads(line)["error"] for line in lines))
