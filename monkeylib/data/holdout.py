"""Which rows of a mixture's sets are kept out of training for validation: whole pictures, never some of their
rows.

A picture is told by its path, or by its bytes where it lies within a table or a shard. Rows that show the
same picture, in one set or in several, and pictures that are shown together make a group, which is kept as a
whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from os.path import normpath
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monkeylib.data.order import Shuffle
from monkeylib.data.records import BadRecord, Records


def choose(sets: Sequence[Records], share: float, seed: int) -> list[np.ndarray]:
    """Numbers of the rows of each set that are kept for validation, in a random order.

    A set keeps at least `share` of its rows, and one at least; it keeps more where its pictures have several
    rows, or are those of other sets. Every record is read once for this, its picture only in tables and
    shards.

    Raises:
        ValueError: a set would have no row left for training.
    """
    groups, kept = groups_of(sets), set()
    for records, of_rows in zip(sets, groups, strict=True):
        numbers, counts = np.unique(of_rows, return_counts=True)
        rows = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        order = Shuffle(len(numbers), seed, records.name, "validation")
        _keep(rows, [int(numbers[place]) for place in order], max(1, round(share * len(records))), kept)
    return [_shuffled(*pair, kept, share, seed) for pair in zip(sets, groups, strict=True)]


def _keep(rows: dict[int, int], order: list[int], wanted: int, kept: set[int]) -> None:
    """Add groups to `kept` until they hold `wanted` rows: in their order those that fit, then the
    smallest."""
    held = sum(rows[group] for group in kept & rows.keys())
    for group in order:
        if group not in kept and held + rows[group] <= wanted:
            kept.add(group)
            held += rows[group]
    for group in sorted(order, key=rows.__getitem__):
        if group not in kept and held < wanted:
            kept.add(group)
            held += rows[group]


def _shuffled(records: Records, of_rows: np.ndarray, kept: set[int], share: float, seed: int) -> np.ndarray:
    held = np.flatnonzero(np.isin(of_rows, list(kept)))
    if len(held) == len(records):
        raise ValueError(
            f"the set {records.name} has {len(records)} rows, which a validation share of {share} leaves "
            "without any for training (rows of one picture stay together): give validation a set of its own"
        )
    return held[list(Shuffle(len(held), seed, records.name, "validation", "rows"))]


def groups_of(sets: Sequence[Records]) -> list[np.ndarray]:
    """The group of each row of each set: groups are numbered over all sets."""
    leader: list[int] = []  # of each row, another row of its group; that of the group's first row is itself
    seen: dict[bytes, int] = {}

    def first(row: int) -> int:
        while leader[row] != row:
            leader[row] = row = leader[leader[row]]
        return row

    for records in sets:
        for number in range(len(records)):
            row = len(leader)
            leader.append(row)
            for picture in _pictures(records, number):
                one, other = first(row), first(seen.setdefault(picture, row))
                leader[max(one, other)] = min(one, other)
    groups = np.array([first(row) for row in range(len(leader))])
    return np.split(groups, np.cumsum([len(records) for records in sets])[:-1])


def _pictures(records: Records, number: int) -> Iterator[bytes]:
    """What tells the pictures of a row from others; nothing of a bad record."""
    try:
        images = records[number].images
    except BadRecord:
        return
    for image in images:
        yield hashlib.blake2b(_identity(image), digest_size=16).digest()


def _identity(image: Any) -> bytes:
    if isinstance(image, str | Path):
        return normpath(image).encode(errors="surrogatepass")
    if hasattr(image, "content"):
        return image.content()
    return image.tobytes() if isinstance(image, Image.Image) else np.asarray(image).tobytes()
