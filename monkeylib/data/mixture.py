"""Mixtures of datasets, shuffled with random access: the record at a position depends on nothing before it.

An epoch has a fixed number of records of each dataset. Each dataset is drawn from in rounds, which continue
across epochs: every record is drawn once before any is drawn again, in a new order each round. So a dataset
whose `count` is its length gives each record exactly once an epoch. With a smaller count, a round takes
several epochs; with a larger one, the numbers of draws of any two records differ by at most one.
"""

from __future__ import annotations

import bisect
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from monkeylib import resources
from monkeylib.data.fingerprint import mixture_fingerprint
from monkeylib.data.permutation import RandomPermutation
from monkeylib.data.readers import DatasetRecords, open_dataset
from monkeylib.data.readers.base import expand_pattern, is_pattern
from monkeylib.data.records import BadRecord, Record, Records
from monkeylib.data.schema import MixtureFile
from monkeylib.data.validation import MOST_GROUPED, SampledSplit, split_validation
from monkeylib.digests import json_digest
from monkeylib.settings_files import read_yaml, validate

FOLDER = Path(__file__).parent / "mixtures"

_READ_RECORDS = 2_000  # of a dataset, until one has an image
_YAML_SUFFIXES = (".yaml", ".yml")


class Mixture:
    """Shuffled records of several datasets, at positions from 0 without end.

    `mixture[position]` is a record; an epoch has `len(mixture)` positions.

    Attributes:
        name: name of the mixture.
        sets: training records of each dataset.
        counts: number of records of each dataset in an epoch.
        validation: validation records, or None.
    """

    def __init__(self, name: str, file: MixtureFile, root: Path) -> None:
        self.name = name
        self.file = file
        self.seed = file.seed

        datasets = [open_dataset(entry, root) for entry in file.sets]
        self.sets: list[Records] = list(datasets)

        validation: list[Records] = []
        validation_datasets: list[DatasetRecords] = []
        validation_numbers: list[np.ndarray] = []

        if file.validation and file.validation.share is not None:
            # A share of every dataset: its records are taken out of training.
            if sum(map(len, datasets)) > MOST_GROUPED:
                split = SampledSplit(datasets, file.validation.share, self.seed)
                validation_numbers = split.numbers
                self.sets = [split.training_records(number) for number in range(len(datasets))]
            else:
                validation_numbers = split_validation(datasets, file.validation.share, self.seed)
                self.sets = [
                    _Subset(records, np.setdiff1d(np.arange(len(records)), numbers))
                    for records, numbers in zip(datasets, validation_numbers, strict=True)
                ]

            validation = [
                _Subset(records, numbers)
                for records, numbers in zip(datasets, validation_numbers, strict=True)
                if len(numbers)
            ]
        elif file.validation:
            # Datasets used for validation only, which leave training as it is.
            validation_datasets = [open_dataset(entry, root) for entry in file.validation.sets]
            validation = [_fixed_sample(records, self.seed) for records in validation_datasets]

        # Counts are given per epoch, or follow from the number of training records.
        self._lengths = [len(records) for records in self.sets]
        self.counts = [
            _epoch_count(records, length) for records, length in zip(datasets, self._lengths, strict=True)
        ]
        self._ends = list(accumulate(self.counts))  # of each dataset among the slots of an epoch

        self.validation: Records | None = _Concatenated("validation", validation) if validation else None
        self._datasets, self._validation_datasets = datasets, validation_datasets
        self._validation_numbers = validation_numbers

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, position: int) -> Record:
        dataset, number = self.locate(position)
        return self.sets[dataset][number]

    @property
    def datasets(self) -> list[DatasetRecords]:
        """The datasets of training in the order of the file, validation shares included."""
        return self._datasets

    def left_out(self) -> list[str]:
        """Return a sentence for each dataset whose format leaves records out, such as failed captions."""
        return [
            f"dataset {records.name}: {records.describe_left_out()}"
            for records in (*self._datasets, *self._validation_datasets)
            if records.left_out
        ]

    def without_images(self) -> list[str]:
        """Return a sentence for each dataset whose first records, up to 2,000, have no images."""
        return [
            f"dataset {records.name}: {describe_text_only(number, number == len(records))}"
            for records in (*self._datasets, *self._validation_datasets)
            if (number := _num_without_images(records))
        ]

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides about every record, as `fingerprint.mixture_fingerprint`; reads all files."""
        return mixture_fingerprint(
            self.file, self._datasets, self.counts, self._validation_datasets, self._validation_numbers
        )

    @cached_property
    def digest(self) -> str:
        """The digest of the fingerprint."""
        return json_digest(self.fingerprint())

    def locate(self, position: int) -> tuple[int, int]:
        """Return the numbers of the dataset and of the record within it that belong to a position.

        Raises:
            IndexError: a negative position.
        """
        if position < 0:
            raise IndexError(f"positions begin at 0, got {position}")

        # An epoch is a permutation of slots, of which each dataset has `counts[dataset]` in a row.
        epoch, index = divmod(position, len(self))
        slot = _permutation(len(self), self.seed, "epoch", epoch)[index]
        dataset = bisect.bisect_right(self._ends, slot)
        first_slot = self._ends[dataset] - self.counts[dataset]

        # The dataset's draws are numbered over all epochs; each round through it is a permutation.
        draw = epoch * self.counts[dataset] + slot - first_slot
        records = self.sets[dataset]
        length = self._lengths[dataset]
        turn, step = divmod(draw, length)
        return dataset, _permutation(length, self.seed, records.name, turn)[step]


def load_mixture(path_or_name: str | Path, images: str | Path | None = None) -> Mixture:
    """Load a mixture from a YAML file, or one that the library ships by its name, and index its files.

    A file of records, several by braces or wildcards, or a saved folder is a mixture of one dataset.

    Args:
        path_or_name: the mixture.
        images: folder of the images of a file of records; by default its own.

    Raises:
        FileNotFoundError: there is no such mixture, or a file of a dataset is missing.
        ValueError: the YAML does not fit the schema, its root is an environment variable that is not set, or
            a dataset's files are empty or not of their format.
    """
    images = None if images is None else resources.to_path(images)
    path = find_mixture(path_or_name)
    if path.suffix.lower() not in _YAML_SUFFIXES:
        return _mixture_of_file(path, images)

    if images is not None:
        raise ValueError(
            f"{path} states the folders of its images itself: give a file of records, or no folder"
        )
    file = parse_mixture(path)

    # expandvars leaves variables that are not set as they are.
    root = resources.to_path(os.path.expandvars(file.root))
    if "$" in str(root):
        raise ValueError(
            f"the mixture {path.stem} lies under {file.root}: set this environment variable to the folder of "
            "its datasets"
        )

    # The library ships mixtures beside its code, and their images apart from it.
    base = resources.REPOSITORY if path.parent == FOLDER else path.parent
    return Mixture(path.stem, file, (base / root).resolve())


def describe_text_only(number: int, is_all: bool) -> str:
    """Return the sentence about records without an image, all or the ones that were read of a dataset."""
    if number == 1:
        return "its record has no image: it is trained on text alone"
    which = f"none of its {number:,} records" if is_all else f"none of {number:,} records that were read"
    return f"{which} has an image: they are trained on text alone"


def mixture_names() -> list[str]:
    """Return the names of the mixtures that the library ships."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find_mixture(path_or_name: str | Path) -> Path:
    """Return the YAML file of a path or of a shipped mixture's name, or the path of records.

    Raises:
        FileNotFoundError: there is no such file.
    """
    shipped = FOLDER / f"{path_or_name}.yaml"
    path = shipped if shipped.is_file() else resources.to_path(path_or_name)
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        return path
    if is_pattern(str(path)) and expand_pattern(str(path), Path())[0].is_file():
        return path

    raise FileNotFoundError(
        f"there is no file {path}: name a mixture's YAML file, a file of records, or a mixture of the "
        f"library, one of {', '.join(mixture_names())}"
    )


def parse_mixture(path: Path) -> MixtureFile:
    """Parse the YAML of a mixture.

    Raises:
        ValueError: it is not YAML, or does not fit the schema; the message names file, line and field.
    """
    return validate(MixtureFile, read_yaml(path))


def _mixture_of_file(path: Path, images: Path | None) -> Mixture:
    """Return the mixture of one dataset, whose format is told by its content."""
    # Wildcards may stand in the names of folders, too.
    root = path.parent
    while is_pattern(str(root)):
        root = root.parent

    # The name becomes part of the names of files.
    name = re.sub(r"[^\w.-]+", "-", path.name if path.is_dir() else path.stem).strip("-") or root.name
    fields = {"name": name or "data", "path": str(path.relative_to(root))}
    if images is not None:
        fields["images"] = str(images.resolve())
    file = MixtureFile.model_validate({"sets": [fields]})
    return Mixture(fields["name"], file, root.resolve())


def _num_without_images(records: DatasetRecords) -> int:
    """Return how many of the first records can be read, if none of these has an image; else 0."""
    number_read = 0
    for number in range(min(len(records), _READ_RECORDS)):
        with suppress(BadRecord):
            if records[number].images:
                return 0
            number_read += 1
    return number_read


class _Subset:
    """Some of the records of a dataset, by their numbers."""

    def __init__(self, records: DatasetRecords, numbers: Sequence[int] | np.ndarray) -> None:
        self.name = records.name
        self._records = records
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> Record:
        if not 0 <= number < len(self):
            raise IndexError(f"there are {len(self)} records of the dataset {self.name}, not {number + 1}")
        return self._records[int(self._numbers[number])]


class _Concatenated:
    """The records of several datasets, one after the other."""

    def __init__(self, name: str, parts: Sequence[Records]) -> None:
        self.name = name
        self._parts = parts
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, number: int) -> Record:
        if not 0 <= number < len(self):
            raise IndexError(f"there are {len(self)} records for {self.name}, not {number + 1}")

        part = bisect.bisect_right(self._ends, number)
        start = self._ends[part] - len(self._parts[part])
        return self._parts[part][number - start]


# Building a permutation hashes its key; the same few are used all through an epoch.
@lru_cache(maxsize=256)
def _permutation(length: int, *key: int | str) -> RandomPermutation:
    return RandomPermutation(length, *key)


def _epoch_count(records: DatasetRecords, length: int) -> int:
    """Return the number of records of a dataset in an epoch; `length` of its records are for training."""
    if records.entry.count is not None:
        return records.entry.count
    return max(1, round((records.entry.weight or 1.0) * length))


def _fixed_sample(records: DatasetRecords, seed: int) -> Records:
    """Return the records of a validation dataset in random order: all, or the first `count`."""
    length = len(records)
    count = min(_epoch_count(records, length), length)
    permutation = RandomPermutation(length, seed, records.name, "validation")
    return _Subset(records, [permutation[index] for index in range(count)])
