"""Which rows each step and each device gets: rows of similar length together, the same for every run with the
same seed, none twice and none left out."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from monkeylib.data.records import BadRecord

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
