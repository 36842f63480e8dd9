"""Mixtures: sets of records, sampled in an order in which any position is computed alone.

An epoch has a fixed number of rows of each set. Within a set, rows come in passes: every row once before any
comes again, in a new order each time, across epochs too. So a set whose `count` is its length gives each row
exactly once an epoch, a smaller count goes through the set over several epochs, and with a larger one rows
come equally often but for one.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import os
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from monkeylib import paths
from monkeylib.data import holdout
from monkeylib.data.order import Shuffle
from monkeylib.data.readers import SetRecords, read
from monkeylib.data.records import Record, Records
from monkeylib.data.schema import MixtureFile
from monkeylib.prompts import PROMPTS

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
            held = holdout.choose(whole, share, self.seed)
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
        raise ValueError(f"{paths.shown(path)} is not YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ValueError(
            f"{paths.shown(path)}, {where}: {first['msg'].removeprefix('Value error, ')}"
        ) from error


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
    """Of what the rows of every position follow from. Which pictures rows share decides what a share keeps,
    and the sizes of files don't show it: the rows themselves do."""
    state: dict[str, Any] = file.model_dump(exclude={"description", "root"})
    state["prompts"] = {records.entry.prompt: PROMPTS[records.entry.prompt] for records in sets}
    state["files"] = [
        [records.name, len(records), *((path.name, path.stat().st_size) for path in records.rows.files)]
        for records in sets
    ]
    if held:
        state["held"] = [hashlib.sha256(numbers.astype("<i8").tobytes()).hexdigest() for numbers in held]
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
