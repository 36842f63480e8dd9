"""Shared parts of the readers: raw records of any format, and checks of their fields."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from monkeylib.data.records import BadRecord, ImageSource, Record
from monkeylib.data.schema import DatasetEntry
from monkeylib.errors import beginning
from monkeylib.prompts import build_prompt, get_template

_MAX_VALUE_LENGTH = 60  # characters of a wrong value in a message


class RawRecords(Protocol):
    """The undecoded records of a dataset, and where they lie."""

    files: list[Path]  # files whose sizes are part of the mixture's digest

    def __len__(self) -> int:
        """Return the number of records."""

    def __getitem__(self, number: int) -> Any:
        """Return the content of record `number`; raises BadRecord if it cannot be read."""

    def location(self, number: int) -> str:
        """Return where record `number` lies: its file, and its position there."""

    def ids(self) -> Iterable[Any]:
        """Return the id of every record, None where there is none."""


@dataclass(frozen=True)
class RawRecord:
    """The content of a record before it is checked.

    Attributes:
        value: the content, an object with fields if the record is good.
        location: where it lies, for messages.
        number: its number in the dataset.
        entry: the dataset that it belongs to.
        folder: folder of the images.
    """

    value: Any
    location: str
    number: int
    entry: DatasetEntry
    folder: Path

    def error(self, field: str, expected: str, value: Any) -> BadRecord:
        """Return the error of a wrong field."""
        return BadRecord(f"{self.location}, field {field}: expected {expected}, got {_shorten(value)}")

    def field(self, name: str) -> Any:
        """Return the value of a required field."""
        if not isinstance(self.value, dict):
            raise BadRecord(f"{self.location}: expected an object with fields, got {_shorten(self.value)}")
        if name not in self.value:
            # A misspelled column is the usual cause, so say which fields there are.
            names = ", ".join(map(str, self.value)) or "none"
            raise BadRecord(f"{self.location}: the field {name} is missing, there are {names}")

        return self.value[name]

    def text(self, value: Any, field: str) -> str:
        """Check that a value is a text that is not empty."""
        if not isinstance(value, str):
            raise self.error(field, "a text", value)
        if not value.strip():
            raise self.error(field, "a text that is not empty", value)

        # Half of a surrogate pair is legal in JSON, but cannot be encoded in UTF-8 for the tokenizer.
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise self.error(field, "a text of Unicode", f"half a surrogate pair in {value!a}")
        return value

    def answer(self, value: Any, field: str) -> str:
        """Check an answer; of a list of texts, return the most frequent one, or the first of several."""
        if isinstance(value, list) and value:
            texts = [self.text(item, f"{field}[{n}]") for n, item in enumerate(value)]
            return Counter(texts).most_common(1)[0][0]
        return self.text(value, field)

    def prompt(self, question: Any, field: str) -> str:
        """Return the dataset's prompt with a question filled in, which prompts for captions ignore."""
        if takes_question(self.entry.prompt):
            question = self.text(question, field)
        return build_prompt(self.entry.prompt, question, self.entry.separator)

    def image_paths(self, value: Any, field: str) -> list[ImageSource]:
        """Return the paths of images, given as one path or a list of them, below the dataset's folder."""
        if isinstance(value, list):
            names = [self.text(item, f"{field}[{n}]") for n, item in enumerate(value)]
        else:
            names = [self.text(value, field)]

        if any("\0" in name for name in names):
            raise self.error(field, "a path", value)

        # Addresses are refused, with a better message, when the image is opened.
        return [name if "://" in name else self.folder / name for name in names]

    def to_record(self, images: Iterable[Any], turns: Iterable[tuple[str, str]], id: Any = None) -> Record:
        """Return the record, after checking its id and its number of images."""
        # Models trained on one image per prompt should not meet several by accident.
        images = tuple(images)
        minimum, maximum = self.entry.min_images, self.entry.max_images
        if not minimum <= len(images) <= maximum:
            allowed = f"{minimum}" if minimum == maximum else f"{minimum} to {maximum}"
            raise BadRecord(
                f"{self.location}: expected {allowed} images, got {len(images)}; the dataset's "
                "min_images and max_images say how many"
            )

        # JSON's true is an int in Python, but not a good id.
        if id is not None and (isinstance(id, bool) or not isinstance(id, str | int)):
            raise self.error("id", "a text or a whole number", id)

        return Record(
            id=str(self.number) if id is None else str(id),
            images=images,
            turns=tuple(turns),
            dataset=self.entry.name,
            location=self.location,
        )


class DatasetRecords:
    """The records of one dataset.

    Args:
        entry: the dataset, as a mixture states it.
        root: folder that relative paths start from.
        raw: its undecoded records.
        parse: checks a raw record and returns the record.

    Raises:
        ValueError: the dataset holds no records.
    """

    def __init__(
        self, entry: DatasetEntry, root: Path, raw: RawRecords, parse: Callable[[RawRecord], Record]
    ) -> None:
        self.name = entry.name
        self.entry = entry
        self.raw = raw
        self._parse = parse
        self._folder = root / (entry.images or "")

        # Ids are read even if they are not checked: a reader holds them until then.
        ids = raw.ids()
        self._duplicates = _find_duplicates(ids) if entry.unique_ids else {}

        if not len(raw):
            raise ValueError(f"the dataset {entry.name} is empty: {', '.join(entry.paths)} holds no records")

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, number: int) -> Record:
        if not 0 <= number < len(self):
            raise IndexError(f"the dataset {self.name} has the records 0 to {len(self) - 1}, not {number}")

        # Every message about a record begins with where it lies.
        location = f"dataset {self.name}: {self.raw.location(number)}"
        if number in self._duplicates:
            first = self.raw.location(self._duplicates[number])
            raise BadRecord(
                f"{location}, field id: expected one that no other record has, but {first} has the same; "
                "the dataset's `unique_ids: false` allows it"
            )

        try:
            value = self.raw[number]
        except BadRecord as error:
            raise BadRecord(f"{location}: {error}") from error

        return self._parse(RawRecord(value, location, number, self.entry, self._folder))


def takes_question(prompt: str) -> bool:
    """Return whether a named prompt has a place for a question."""
    return get_template(prompt).takes_question


def find_files(entry: DatasetEntry, root: Path) -> list[Path]:
    """Return the files of a dataset.

    Raises:
        FileNotFoundError: one does not exist.
    """
    files = [root / path for path in entry.paths]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"the dataset {entry.name} has no file at {file}: check its path in the mixture"
            )

    return files


def _find_duplicates(ids: Iterable[Any]) -> dict[int, int]:
    """Return a map from each record whose id an earlier record has to that earlier record."""
    first_with: dict[str, int] = {}
    duplicates: dict[int, int] = {}

    for number, id in enumerate(ids):
        if id is None:
            continue

        # As text, since 7 and "7" are one id in a `Record`.
        first = first_with.setdefault(str(id), number)
        if first != number:
            duplicates[number] = first

    return duplicates


def _shorten(value: Any) -> str:
    """Return a value for a message, with its type unless it is a text."""
    text = value if isinstance(value, str) and value.strip() else repr(value)
    kind = "" if isinstance(value, str) or value is None else f"{type(value).__name__} "
    return kind + beginning(text, _MAX_VALUE_LENGTH)
