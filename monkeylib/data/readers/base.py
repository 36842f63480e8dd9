"""Shared parts of the readers: raw records of any file, checks of their fields, files of a dataset."""

from __future__ import annotations

import ast
import glob
import io
import re
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from monkeylib.data.json_rows import number_as_text
from monkeylib.data.records import BadRecord, Record
from monkeylib.data.schema import DatasetEntry
from monkeylib.errors import beginning
from monkeylib.messages import ImagePart, ImageSource, Message, Part
from monkeylib.prompts import get_template

_MAX_VALUE_LENGTH = 60  # characters of a wrong value in a message
_LONGEST_PATH = 4096  # characters; a longer text is mostly base64

# Fields in which datasets state the id, the source and the licence of a record.
# WebDataset's members have a key.
_ID_FIELDS = ("id", "question_id", "questionId", "key")
_SOURCE_FIELDS = ("source", "dataset", "origin")
_LICENCE_FIELDS = ("licence", "license")

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_PATTERN_CHARACTERS = frozenset("*?[{")


class RawRecords(Protocol):
    """The undecoded records of a dataset, and where they lie."""

    files: list[Path]  # files whose content is part of the mixture's fingerprint

    def __len__(self) -> int:
        """Return the number of records."""

    def __getitem__(self, number: int) -> Any:
        """Return the content of record `number`; raises BadRecord if it cannot be read."""

    def location(self, number: int) -> str:
        """Return where record `number` lies: its file, and its position there."""


@dataclass(frozen=True)
class RawRecord:
    """The content of a record before it is checked.

    Attributes:
        value: the content, an object with fields if the record is good.
        location: where it lies, for messages.
        number: its number in the dataset.
        entry: the dataset that it belongs to.
        folders: folders in which its images may lie.
        image_limits: the smallest and the largest number of its images.
    """

    value: Any
    location: str
    number: int
    entry: DatasetEntry
    folders: Sequence[Path]
    image_limits: tuple[int, int]

    def error(self, field: str, expected: str, value: Any) -> BadRecord:
        """Return the error of a wrong field."""
        return BadRecord(f"{self.location}, field {field}: expected {expected}, got {_shorten(value)}")

    def not_an_object(self) -> BadRecord:
        """Return the error of a record without fields."""
        return BadRecord(f"{self.location}: expected an object with fields, got {_shorten(self.value)}")

    def field(self, name: str) -> Any:
        """Return the value of a required field."""
        if name not in self.value:
            # A misspelled column is the usual cause, so say which fields there are.
            names = ", ".join(map(str, self.value)) or "none"
            raise BadRecord(f"{self.location}: the field {name} is missing, there are {names}")

        return self.value[name]

    def text(self, value: Any, field: str) -> str:
        """Check that a value is a text that is not empty, or a number, and return it as text."""
        if not isinstance(value, str):
            value = number_as_text(value)
        if not isinstance(value, str):
            raise self.error(field, "a text", value)
        if not value.strip():
            raise self.error(field, "a text that is not empty", value)

        # Half of a surrogate pair is legal in JSON, but cannot be encoded in UTF-8 for the tokenizer.
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise self.error(field, "a text of Unicode", f"half a surrogate pair in {value!a}")
        return value

    def answers(self, value: Any, field: str) -> tuple[str, ...]:
        """Check an answer, or a list of answers."""
        if isinstance(value, list) and value:
            return tuple(self.text(item, f"{field}[{n}]") for n, item in enumerate(value))
        return (self.text(value, field),)

    def question(self, parts: Iterable[Part], field: str) -> Message:
        """Return a user's message that the dataset's prompt is put around.

        Where the text is in one piece, its images come first, as in the prompts of the paper and in LLaVA's
        own training; elsewhere they stay at their places.
        """
        parts = [part for part in parts if not isinstance(part, str) or part.strip()]
        texts = [part for part in parts if isinstance(part, str)]
        if takes_question(self.entry.prompt):
            self.text("".join(texts), field)

        if len(texts) == 1:
            images = [part for part in parts if isinstance(part, ImagePart)]
            return Message("user", (*images, texts[0].strip()))

        # The ends of the message are not part of its text.
        if parts and isinstance(parts[0], str):
            parts[0] = parts[0].lstrip()
        if parts and isinstance(parts[-1], str):
            parts[-1] = parts[-1].rstrip()
        return Message("user", tuple(parts))

    def images(self, value: Any, field: str) -> list[ImageSource]:
        """Return images that are given, alone or in a list, as paths, `data:` URIs, or bytes.

        The list may be a text, as tables hold it: `["a.png", "b.png"]`.
        """
        if isinstance(value, str):
            texts = split_list((value,))
            value = value if texts == (value,) else list(texts)
        if isinstance(value, list):
            return [self._image(item, f"{field}[{n}]") for n, item in enumerate(value)]
        return [self._image(value, field)]

    def _image(self, value: Any, field: str) -> ImageSource:
        # What a table or a shard holds is opened later.
        if callable(value) or (isinstance(value, bytes) and value):
            return value
        # As `datasets` and the hub's parquet files write images.
        if isinstance(value, dict) and (value.get("bytes") or value.get("path")):
            return value.get("bytes") or self._image(value["path"], field)
        if isinstance(value, dict) and isinstance(value.get("url"), str):
            return self._image(value["url"], field)

        if not isinstance(value, str):
            raise self.error(field, "a text", value)
        name = self.text(value, field)
        if "\0" in name:
            raise self.error(field, "a path", value)
        if len(name) > _LONGEST_PATH and not name.startswith("data:"):
            raise self.error(field, "a path, or base64 as data:image/png;base64,CONTENT", value)

        # Addresses are refused, with a better message, when the image is opened.
        if "://" in name or name.startswith("data:"):
            return name
        return self._find(name)

    def _find(self, name: str) -> Path:
        """Return the path of an image below one of the folders, the first one if it lies in none."""
        paths = [folder / name for folder in self.folders]
        if len(paths) > 1:
            return next((path for path in paths if path.exists()), paths[0])
        return paths[0]

    def to_record(
        self,
        messages: Sequence[Message],
        *,
        is_exact: bool = False,
        id: Any = None,
        answers: tuple[str, ...] = (),
        note: str = "",
    ) -> Record:
        """Return the record, after checking its id and its number of images.

        Args:
            messages: perhaps a system message, then a user's and an assistant's in turns.
            is_exact: whether the user's texts are prompts already, with all that belongs around a question.
            id: the id, if it is not in a field of the usual names.
            answers: all answers that count as correct.
            note: what reading the record has changed.
        """
        if self.entry.turns == "first":
            first_answer = next(n for n, message in enumerate(messages) if message.role == "assistant")
            messages = messages[: first_answer + 1]

        # Models trained on one image per prompt should not meet several by accident.
        num_images = sum(isinstance(part, ImagePart) for message in messages for part in message.parts)
        minimum, maximum = self.image_limits
        if not minimum <= num_images <= maximum:
            allowed = f"{minimum}" if minimum == maximum else f"{minimum} to {maximum}"
            raise BadRecord(
                f"{self.location}: expected {allowed} images, got {num_images}; the dataset's "
                "min_images and max_images say how many"
            )

        if id is None:
            id = self._first_of(_ID_FIELDS)
            if id is not None and not isinstance(id, str):
                id = number_as_text(id)
        if id is not None and not isinstance(id, str):
            raise self.error("id", "a text or a whole number", id)

        return Record(
            id=str(self.number) if id is None else id,
            messages=tuple(messages),
            dataset=self.entry.name,
            location=self.location,
            prompt=None if is_exact else self.entry.prompt,
            separator="" if is_exact else self.entry.separator,
            answers=answers,
            source=_text_or_nothing(self._first_of(_SOURCE_FIELDS)),
            licence=_text_or_nothing(self._first_of(_LICENCE_FIELDS)),
            note=note,
        )

    def _first_of(self, fields: Iterable[str]) -> Any:
        return next((self.value[name] for name in fields if self.value.get(name) is not None), None)


class DatasetRecords:
    """The records of one dataset.

    Args:
        entry: the dataset, as a mixture states it.
        root: folder that relative paths start from.
        raw: its undecoded records.
        parse: checks a raw record and returns the record.
        left_out: returns why a raw record is not one of the dataset's, empty if it is; the others are counted
            in the attribute of this name.

    Raises:
        ValueError: the dataset holds no records.
    """

    def __init__(
        self,
        entry: DatasetEntry,
        root: Path,
        raw: RawRecords,
        parse: Callable[[RawRecord], Record],
        left_out: Callable[[Any], str] | None = None,
    ) -> None:
        self.name = entry.name
        self.entry = entry
        self.raw = raw
        self.left_out: Counter[str] = Counter()
        self._parse = parse
        self._image_limits = entry.image_limits

        # Images are named from the folder that the entry states, else from the root, or from the dataset's
        # own folder: that of its file, or the one that holds its files.
        self._folders = [root / Path(entry.images or "").expanduser()]
        path = root / entry.paths[0]
        own_folder = path if path.is_dir() else path.parent
        if entry.images is None and own_folder.resolve() != root.resolve():
            self._folders.append(own_folder)

        # Without a filter, record n is raw record n.
        self._numbers = None if left_out is None else self._filter(left_out)
        self._duplicates = _find_duplicates(self._ids()) if entry.unique_ids else {}

        if not len(self):
            reasons = f" ({self.describe_left_out()})" if self.left_out else ""
            raise ValueError(
                f"the dataset {entry.name} is empty: {', '.join(entry.paths)} holds no records{reasons}"
            )

    def __len__(self) -> int:
        return len(self.raw) if self._numbers is None else len(self._numbers)

    def __getitem__(self, number: int) -> Record:
        if not 0 <= number < len(self):
            raise IndexError(f"the dataset {self.name} has the records 0 to {len(self) - 1}, not {number}")

        # Every message about a record begins with where it lies.
        location = self._location(number)
        if number in self._duplicates:
            first = self._location(self._duplicates[number]).removeprefix(f"dataset {self.name}: ")
            raise BadRecord(
                f"{location}, field id: expected one that no other record has, but {first} has the same; "
                "the dataset's `unique_ids: false` allows it"
            )

        return self._read(number, location)

    def fields(self, number: int) -> Mapping[str, Any]:
        """Return all fields of a record as its file has them; none if it is no object with fields.

        Raises:
            BadRecord: it cannot be read.
        """
        value = self.raw[self._raw_number(number)]
        return value if isinstance(value, dict) else {}

    def describe_left_out(self) -> str:
        """Return how many records were left out, and why: "3 left out: 2 failed, 1 without a caption"."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        return f"{self.left_out.total()} left out: {reasons}" if reasons else ""

    def _raw_number(self, number: int) -> int:
        return number if self._numbers is None else int(self._numbers[number])

    def _location(self, number: int) -> str:
        return f"dataset {self.name}: {self.raw.location(self._raw_number(number))}"

    def _read(self, number: int, location: str) -> Record:
        try:
            value = self.raw[self._raw_number(number)]
        except BadRecord as error:
            raise BadRecord(f"{location}: {error}") from error

        raw = RawRecord(value, location, number, self.entry, self._folders, self._image_limits)
        return self._parse(raw)

    def _filter(self, left_out: Callable[[Any], str]) -> np.ndarray:
        """Return the numbers of the raw records that are not left out; bad ones stay, and raise later."""
        numbers = []
        for number in range(len(self.raw)):
            try:
                reason = left_out(self.raw[number])
            except BadRecord:
                reason = ""

            if reason:
                self.left_out[reason] += 1
            else:
                numbers.append(number)

        return np.array(numbers, dtype=np.int64)

    def _ids(self) -> Iterator[str | None]:
        for number in range(len(self)):
            try:
                record = self._read(number, self._location(number))
            except BadRecord:
                yield None
            else:
                yield None if record.id == str(number) else record.id


def takes_question(prompt: str) -> bool:
    """Return whether a named prompt has a place for a question."""
    return get_template(prompt).takes_question


def split_list(answers: tuple[str, ...]) -> tuple[str, ...]:
    """Return the answers of a list that a table holds as a text, as Python, pandas, NumPy or JSON write it.

    A list of numbers alone, such as a box, is one answer.
    """
    if len(answers) != 1 or not (answers[0].startswith("[") and answers[0].endswith("]")):
        return answers

    try:
        # NumPy writes no commas, and Python would join the texts.
        tokens = list(tokenize.generate_tokens(io.StringIO(answers[0]).readline))
        tokens = [token for token in tokens if token.type in (tokenize.STRING, tokenize.OP)]
        if any(one.type == two.type == tokenize.STRING for one, two in pairwise(tokens)):
            values = [ast.literal_eval(token.string) for token in tokens[1:-1]]
        else:
            values = ast.literal_eval(answers[0])
    except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
        return answers

    if not isinstance(values, list) or (values and not any(isinstance(value, str) for value in values)):
        return answers
    texts = tuple(map(number_as_text, values))
    return texts if all(isinstance(text, str) for text in texts) else answers


def find_files(entry: DatasetEntry, root: Path) -> list[Path]:
    """Return the files of a dataset, those of its patterns in the order of their names.

    Raises:
        FileNotFoundError: one does not exist, or a pattern matches none.
    """
    files = []
    for path in entry.paths:
        matches = [root / path] if (root / path).exists() else expand_pattern(path, root)
        for file in matches:
            if not file.is_file():
                raise FileNotFoundError(
                    f"the dataset {entry.name} has no file at {file}: check its path in the mixture"
                )
        files += matches

    return files


def is_pattern(path: str) -> bool:
    """Return whether a path holds braces or wildcards."""
    return bool(_PATTERN_CHARACTERS & set(path))


def expand_pattern(path: str, root: Path) -> list[Path]:
    """Return the files of a path with braces (`{0000..0007}`, `{a,b}`) and wildcards (`*`, `?`, `[abc]`).

    Braces name files that have to exist; wildcards stand for those that do. A path that matches nothing is
    returned as it is.
    """
    files = []
    for name in _expand_braces(path):
        if glob.has_magic(name):
            files += sorted(root / match for match in glob.glob(name, root_dir=root, recursive=True))
        else:
            files.append(root / name)

    return files or [root / path]


def _expand_braces(path: str) -> list[str]:
    match = _BRACES.search(path)
    if match is None:
        return [path]

    content = match[1]
    if numbers := _RANGE.fullmatch(content):
        first, last = numbers[1], numbers[2]
        values = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        values = content.split(",")

    before, after = path[: match.start()], path[match.end() :]
    return [name for value in values for name in _expand_braces(before + value + after)]


def _find_duplicates(ids: Iterable[str | None]) -> dict[int, int]:
    """Return a map from each record whose id an earlier record has to that earlier record."""
    first_with: dict[str, int] = {}
    duplicates: dict[int, int] = {}

    for number, id in enumerate(ids):
        if id is None:
            continue

        first = first_with.setdefault(id, number)
        if first != number:
            duplicates[number] = first

    return duplicates


def _text_or_nothing(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _shorten(value: Any) -> str:
    """Return a value for a message, with its type unless it is a text."""
    text = value if isinstance(value, str) and value.strip() else repr(value)
    kind = "" if isinstance(value, str) or value is None else f"{type(value).__name__} "
    return kind + beginning(text, _MAX_VALUE_LENGTH)
