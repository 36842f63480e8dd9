"""Batches of rows of similar length, made on the fly and the same for every run with the same seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

POOL = 4  # batches drawn together and sorted by length, so that little is padded


class PooledBatches(Dataset):
    """Batch `i` of an endless supply of rows.

    Args:
        row: makes row number `n`.
        length: of a row, in tokens.
        collate: rows to a batch.
        batch_size: rows in a batch.
        batches: how many there are in all.
        start: number of the first batch, when a run goes on where it stopped.
        offset: number of the first row.
    """

    def __init__(
        self,
        row: Callable[[int], Any],
        length: Callable[[Any], int],
        collate: Callable[[list[Any]], dict[str, Any]],
        batch_size: int,
        batches: int,
        start: int = 0,
        offset: int = 0,
    ):
        self.row, self.length, self.collate = row, length, collate
        self.batch_size, self.batches, self.start, self.offset = batch_size, batches, start, offset
        self._pooled: tuple[int, list[Any]] = (-1, [])

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"Batch {index} was asked for, there are {len(self)}.")
        pool, place = divmod(index, POOL)
        if self._pooled[0] != pool:
            first, count = self.offset + pool * POOL * self.batch_size, POOL * self.batch_size
            self._pooled = pool, sorted((self.row(first + i) for i in range(count)), key=self.length)
        place = int(np.random.default_rng(pool).permutation(POOL)[place])
        return self.collate(self._pooled[1][place * self.batch_size :][: self.batch_size])


class _Onwards(Sampler):
    """Numbers of the batches from `start` on. Its length is that of all batches, since Lightning compares it
    with the batches that a resumed run has seen from the very first on.
    """

    def __init__(self, batches: PooledBatches):
        self.batches = batches

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.batches.start, len(self.batches)))

    def __len__(self) -> int:
        return len(self.batches)


def loader(batches: PooledBatches, keep_worker: bool = False) -> DataLoader:
    """One worker prepares whole batches in order, a pool ahead."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=_Onwards(batches),
        num_workers=1,
        prefetch_factor=2 * POOL,
        persistent_workers=keep_worker,
    )
