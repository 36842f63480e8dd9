"""What readers share: rows from any source become records through one function, and checks of fields."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from monkeylib.data.records import BadRecord, ImageInput, Record
from monkeylib.data.schema import DataSet
from monkeylib.prompts import build_prompt, get_template

_SHOWN = 60  # characters of a wrong value in a message


class Rows(Protocol):
    """Raw rows of a set and where they lie."""

    files: list[Path]  # those whose sizes tell one state of the set from another

    def __len__(self) -> int:
        """How many rows there are."""

    def __getitem__(self, number: int) -> Any:
        """Row `number`; BadRecord if it cannot be read."""

    def place(self, number: int) -> str:
        """Where row `number` lies."""

    def ids(self) -> Iterable[Any]:
        """The id of every row, None where there is none."""


@dataclass(frozen=True)
class Row:
    """A raw row, its place and number, and the set that it belongs to."""

    value: Any
    place: str
    number: int
    entry: DataSet
    folder: Path  # of the images

    def bad(self, field: str, expected: str, came: Any) -> BadRecord:
        """The error of a field."""
        return BadRecord(f"{self.place}, field {field}: expected {expected}, got {_shown(came)}")

    def field(self, name: str) -> Any:
        """The value of a field that has to be there."""
        if not isinstance(self.value, dict):
            raise BadRecord(f"{self.place}: expected an object with fields, got {_shown(self.value)}")
        if name not in self.value:
            there = ", ".join(map(str, self.value)) or "none"
            raise BadRecord(f"{self.place}: the field {name} is missing, there are {there}")
        return self.value[name]

    def text(self, value: Any, field: str) -> str:
        """A text with something in it."""
        if not isinstance(value, str):
            raise self.bad(field, "a text", value)
        if not value.strip():
            raise self.bad(field, "a text that is not empty", value)
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise self.bad(field, "a text of Unicode", f"half a surrogate pair in {value!a}")
        return value

    def answer(self, value: Any, field: str) -> str:
        """An answer; of a list of texts the most frequent, the earliest of several."""
        if isinstance(value, list) and value:
            texts = [self.text(item, f"{field}[{n}]") for n, item in enumerate(value)]
            return Counter(texts).most_common(1)[0][0]
        return self.text(value, field)

    def prompt(self, question: Any, field: str) -> str:
        """The set's prompt around a question, which prompts for captions do not look at."""
        if takes_question(self.entry.prompt):
            question = self.text(question, field)
        return build_prompt(self.entry.prompt, question, self.entry.separator)

    def paths(self, value: Any, field: str) -> list[ImageInput]:
        """Paths of images, from one path or a list of them, below the set's folder."""
        values = value if isinstance(value, list) else [value]
        names = [
            self.text(item, f"{field}[{n}]" if value is values else field) for n, item in enumerate(values)
        ]
        if any("\0" in name for name in names):
            raise self.bad(field, "a path", value)
        return [name if "://" in name else self.folder / name for name in names]

    def record(self, images: Iterable[Any], turns: Iterable[tuple[str, str]], id: Any = None) -> Record:
        """The record, if it has as many images as the set allows."""
        images = tuple(images)
        least, most = self.entry.min_images, self.entry.max_images
        if not least <= len(images) <= most:
            allowed = f"{least}" if least == most else f"{least} to {most}"
            raise BadRecord(
                f"{self.place}: expected {allowed} images, got {len(images)}; the set's min_images and "
                "max_images say how many"
            )
        if id is not None and (isinstance(id, bool) or not isinstance(id, str | int)):
            raise self.bad("id", "a text or a whole number", id)
        return Record(
            str(self.number) if id is None else str(id), images, tuple(turns), self.entry.name, self.place
        )


class SetRecords:
    """The records of one set: rows, and the function that makes a record of one."""

    def __init__(self, entry: DataSet, root: Path, rows: Rows, parse: Callable[[Row], Record]) -> None:
        self.name, self.entry, self.rows, self.parse = entry.name, entry, rows, parse
        self.folder = root / (entry.images or "")
        ids = rows.ids()
        self._repeats = _repeats(ids) if entry.unique_ids else {}
        if not len(rows):
            raise ValueError(f"the set {entry.name} is empty: {', '.join(entry.paths)} holds no records")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Record:
        if not 0 <= number < len(self):
            raise IndexError(f"the set {self.name} has the records 0 to {len(self) - 1}, not {number}")
        place = f"set {self.name}: {self.rows.place(number)}"
        if number in self._repeats:
            first = self.rows.place(self._repeats[number])
            raise BadRecord(
                f"{place}, field id: expected one that no other record has, but {first} has the same; "
                "the set's `unique_ids: false` allows it"
            )
        try:
            value = self.rows[number]
        except BadRecord as error:
            raise BadRecord(f"{place}: {error}") from error
        return self.parse(Row(value, place, number, self.entry, self.folder))


def takes_question(prompt: str) -> bool:
    """Whether a named prompt holds a question."""
    return get_template(prompt).takes_question


def locate(entry: DataSet, root: Path) -> list[Path]:
    """The files of a set.

    Raises:
        FileNotFoundError: one isn't there.
    """
    files = [root / path for path in entry.paths]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"the set {entry.name} has no file at {file}: check its path in the mixture"
            )
    return files


def _repeats(ids: Iterable[Any]) -> dict[int, int]:
    """Number of each row whose id an earlier row has -> number of that row."""
    first: dict[str, int] = {}
    return {
        number: first[str(id)]
        for number, id in enumerate(ids)
        if id is not None and first.setdefault(str(id), number) != number
    }


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) and value.strip() else repr(value)
    kind = "" if isinstance(value, str) or value is None else f"{type(value).__name__} "
    return kind + (text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
