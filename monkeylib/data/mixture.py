"""Mixtures: sets of records, sampled in an order in which any position is computed alone.

An epoch has a fixed number of rows of each set. Within a set, rows come in passes: every row once before any
comes again, in a new order each time, across epochs too. So a set whose `count` is its length gives each row
exactly once an epoch, a smaller count goes through the set over several epochs, and with a larger one rows
come equally often but for one.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from os.path import normpath
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from pydantic import ValidationError

from monkeylib import resources
from monkeylib.data.readers import SetRecords, read
from monkeylib.data.records import BadRecord, Record, Records
from monkeylib.data.schema import MixtureFile
from monkeylib.digests import bytes_digest, json_digest, short_digest
from monkeylib.errors import first_problem
from monkeylib.prompts import PROMPTS

_ROUNDS = 6
_MASK = (1 << 64) - 1


class Shuffle:
    """A random order of `0 ... length - 1`: `shuffle[i]` is what stands at place `i`.

    A Feistel network permutes the smallest square of a power of two that holds the length; results outside
    are permuted again until they lie inside (cycle walking), so every number comes exactly once.

    Args:
        length: how many numbers there are.
        key: what the order depends on, e.g. the seed, the set and the epoch.
    """

    def __init__(self, length: int, *key: int | str) -> None:
        if length < 1:
            raise ValueError(f"an order needs at least one number, got a length of {length}")
        self.length = length
        digest = short_digest(repr(key).encode(), 8 * _ROUNDS)
        self._keys = [int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(_ROUNDS)]
        self._bits = max(1, ((length - 1).bit_length() + 1) // 2)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self.length:
            raise IndexError(f"the order has the places 0 to {self.length - 1}, not {place}")
        number = self._permuted(place)
        while number >= self.length:
            number = self._permuted(number)
        return number

    def _permuted(self, number: int) -> int:
        low = (1 << self._bits) - 1
        left, right = number >> self._bits, number & low
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & low)
        return left << self._bits | right


def _mixed(value: int) -> int:
    """64 bits in which each depends on all of `value` (the finaliser of SplitMix64)."""
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31


def choose(sets: Sequence[Records], share: float, seed: int) -> list[np.ndarray]:
    """Numbers of the rows of each set that are kept for validation, in a random order.

    A set keeps at least `share` of its rows, and one at least; it keeps more where its images have several
    rows, or are those of other sets. Every record is read once for this, its image only in tables and
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
            "without any for training (rows of one image stay together): give validation a set of its own"
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
            for image in _images(records, number):
                one, other = first(row), first(seen.setdefault(image, row))
                leader[max(one, other)] = min(one, other)
    groups = np.array([first(row) for row in range(len(leader))])
    return np.split(groups, np.cumsum([len(records) for records in sets])[:-1])


def _images(records: Records, number: int) -> Iterator[bytes]:
    """What tells the images of a row from others; nothing of a bad record."""
    try:
        images = records[number].images
    except BadRecord:
        return
    for image in images:
        yield short_digest(_identity(image), 16)


def _identity(image: Any) -> bytes:
    if isinstance(image, str | Path):
        return normpath(image).encode(errors="surrogatepass")
    if hasattr(image, "content"):
        return image.content()
    return image.tobytes() if isinstance(image, Image.Image) else np.asarray(image).tobytes()


FOLDER = Path(__file__).parent / "mixtures"


class Mixture:
    """`mixture[position]` is a record, for any position from 0; an epoch has `len(mixture)` rows.

    Attributes:
        name: of the mixture.
        sets: the training rows of each set.
        counts: rows of each set in an epoch.
        validation: the rows kept for validation, or None.
        digest: changes with the sets, the sizes of their files, the prompts, weights, the seed, and the rows
            that a share keeps for validation.
    """

    def __init__(self, name: str, file: MixtureFile, root: Path) -> None:
        self.name, self.file, self.seed = name, file, file.seed
        whole = [read(entry, root) for entry in file.sets]
        share = file.validation.share if file.validation else None
        own = [read(entry, root) for entry in file.validation.sets] if file.validation else []
        self.sets: list[Records] = list(whole)
        apart: list[Records] = [_sampled(records, self.seed) for records in own]
        held: list[np.ndarray] = []
        if share is not None:
            held = choose(whole, share, self.seed)
            apart = [_Part(*pair) for pair in zip(whole, held, strict=True) if len(pair[1])]
            self.sets = [
                _Part(records, np.setdiff1d(np.arange(len(records)), numbers))
                for records, numbers in zip(whole, held, strict=True)
            ]
        self.counts = [_count(records, kept) for records, kept in zip(whole, self.sets, strict=True)]
        self.digest = _digest(file, [*whole, *own], held)
        self._ends = list(accumulate(self.counts))
        self.validation: Records | None = _Joined("validation", apart) if apart else None

    def __len__(self) -> int:
        return self._ends[-1]

    def locate(self, position: int) -> tuple[int, int]:
        """Which set a position takes its row of, and which row of that set's training rows.

        Raises:
            IndexError: a negative position.
        """
        if position < 0:
            raise IndexError(f"positions begin at 0, got {position}")
        epoch, place = divmod(position, len(self))
        slot = _shuffle(len(self), self.seed, "epoch", epoch)[place]
        number = bisect.bisect_right(self._ends, slot)
        draw = epoch * self.counts[number] + slot - (self._ends[number] - self.counts[number])
        rows, name = len(self.sets[number]), self.sets[number].name
        turn, step = divmod(draw, rows)
        return number, _shuffle(rows, self.seed, name, turn)[step]

    def __getitem__(self, position: int) -> Record:
        number, row = self.locate(position)
        return self.sets[number][row]


def load(path_or_name: str | Path) -> Mixture:
    """The mixture of a YAML file, or one that the library ships by its name, with its sets' files indexed.

    Raises:
        FileNotFoundError: there is no such mixture, or a file of a set is missing.
        ValueError: the YAML doesn't fit the schema, its root is an environment variable that isn't set, or a
            set's files are empty or not of their format.
    """
    path = locate(path_or_name)
    file = parse(path)
    root = Path(os.path.expandvars(file.root)).expanduser()
    if "$" in str(root):
        raise ValueError(
            f"the mixture {path.stem} lies under {file.root}: set this environment variable to the folder of "
            "its sets"
        )
    return Mixture(path.stem, file, (path.parent / root).resolve())


def names() -> list[str]:
    """The mixtures that the library ships."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def locate(path_or_name: str | Path) -> Path:
    """The YAML file of a path or of a shipped mixture's name."""
    shipped = FOLDER / f"{path_or_name}.yaml"
    path = shipped if shipped.is_file() else Path(path_or_name)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no mixture at {path}: name a YAML file or one of {', '.join(names())}"
        )
    return path


def parse(path: Path) -> MixtureFile:
    """What a mixture's YAML says.

    Raises:
        ValueError: it isn't YAML, or doesn't fit the schema.
    """
    try:
        return MixtureFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{resources.display_path(path)} is not YAML: {error}") from error
    except ValidationError as error:
        raise ValueError(f"{resources.display_path(path)}, {first_problem(error)}") from error


class _Part:
    """Some rows of a set, by their numbers."""

    def __init__(self, records: SetRecords, rows: Sequence[int] | np.ndarray) -> None:
        self.name, self._records, self._rows = records.name, records, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Record:
        if not 0 <= number < len(self):
            raise IndexError(f"there are {len(self)} rows of the set {self.name}, not {number + 1}")
        return self._records[int(self._rows[number])]


class _Joined:
    """Records of several sets one after the other."""

    def __init__(self, name: str, parts: Sequence[Records]) -> None:
        self.name, self._parts = name, parts
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, number: int) -> Record:
        if not 0 <= number < len(self):
            raise IndexError(f"there are {len(self)} rows for {self.name}, not {number + 1}")
        part = bisect.bisect_right(self._ends, number)
        return self._parts[part][number - (self._ends[part] - len(self._parts[part]))]


@lru_cache(maxsize=256)
def _shuffle(length: int, *key: int | str) -> Shuffle:
    return Shuffle(length, *key)


def _sampled(records: SetRecords, seed: int) -> Records:
    """The rows of a validation set: all, or a fixed sample of `count`."""
    count = min(_count(records, records), len(records))
    order = Shuffle(len(records), seed, records.name, "validation")
    return _Part(records, [order[place] for place in range(count)])


def _count(records: SetRecords, kept: Records) -> int:
    """Rows of a set in an epoch."""
    if records.entry.count is not None:
        return records.entry.count
    return max(1, round((records.entry.weight or 1.0) * len(kept)))


def _digest(file: MixtureFile, sets: Sequence[SetRecords], held: Sequence[np.ndarray]) -> str:
    """Of what the rows of every position follow from. Which images rows share decides what a share keeps,
    and the sizes of files don't show it: the rows themselves do."""
    state: dict[str, Any] = file.model_dump(exclude={"description", "root"})
    state["prompts"] = {records.entry.prompt: PROMPTS[records.entry.prompt].text for records in sets}
    state["files"] = [
        [records.name, len(records), *((path.name, path.stat().st_size) for path in records.rows.files)]
        for records in sets
    ]
    if held:
        state["held"] = [bytes_digest(numbers.astype("<i8").tobytes()) for numbers in held]
    return json_digest(state)
