"""Rows of JSON files, whether they hold one list or an object a line, in any encoding of Unicode.

What a file is, its content says and not its ending: `[` begins a list, anything else are lines. A byte order
mark, line ends of Windows and blank lines are no content. Files in UTF-16 or UTF-32 are read from a copy in
UTF-8 in the cache.

`JsonRows` gives random access. Its index, three numbers a row, lies on the disk and is mapped into memory, so
that a file of any length opens in constant memory, and the processes of a machine share one index. It is
named after the file's path, size, and when it was changed.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from array import array
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from monkeylib import resources
from monkeylib.data.file_cache import cached_file

_WHITESPACE = re.compile(r"[ \t\r\n]*")
_CHUNK = 2**20  # bytes that are read at once
_MAX_ROW = 2**26  # bytes; where a row of a list doesn't end by then, the file is broken
_INDEX_ROWS = 2**14  # that are written at once
_IN_MEMORY = 2**20  # bytes; the index of a smaller file is made anew each time

# Only the borders of rows matter to the index: numbers need no value, however long they are.
_DECODE = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode


class RowError(ValueError):
    """A row that is not JSON; the others can be read."""


class Span(NamedTuple):
    """Where a row lies in its file: its first byte, its length in bytes, and its line."""

    start: int
    length: int
    line: int


def read_json_or_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield each row of a file with its place: "line 3 of FILE", or "record 3 of FILE" in a list.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, or not JSON; the message names the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file at {resources.display_path(path)}")

    rows = JsonRows(path)
    for number in range(len(rows)):
        place = f"record {number + 1}" if rows.is_list else f"line {rows.span(number).line}"
        try:
            value = rows[number]
        except RowError as error:
            raise ValueError(f"{place} of {path} is not JSON: {error}") from error
        yield f"{place} of {path}", value


def number_as_text(value: Any) -> Any:
    """Return a number as text, and any other value as it is; true and infinity are no numbers here."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    # Of databases, in tables.
    if isinstance(value, Decimal) and value.is_finite():
        return f"{value:f}"
    return value


class JsonRows:
    """Random access to the rows of a file.

    A line that is not JSON is an error of its own; a list must be valid as a whole, since nothing after a
    syntax error in it can be read.

    Raises:
        ValueError: the file is empty, or a list that is not JSON.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.stat().st_size:
            raise ValueError(f"{path} is empty: expected records in JSON")

        self._utf8 = _utf8_copy(path)
        first = _first_line(self._utf8)
        self.is_list = first.startswith(b"[")
        if first == b"{":
            raise ValueError(
                f"{path} must hold a list of records, or one record a line; "
                "it holds an object over several lines"
            )

        # [number of rows, 3]
        self._spans = _load_index(self._utf8, path, self.is_list)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, number: int) -> Any:
        """Return the value of a row.

        Raises:
            RowError: it is not JSON.
        """
        span = self.span(number)
        with open(self._utf8, "rb") as file:
            file.seek(span.start)
            content = file.read(span.length)

        try:
            return json.loads(content.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise RowError(f"expected UTF-8, got the byte 0x{content[error.start]:02x}") from error
        except (ValueError, RecursionError) as error:
            raise RowError(f"expected an object of JSON, got {content.strip()[:60]!r} ({error})") from error

    def span(self, number: int) -> Span:
        """Return where a row lies."""
        return Span(*self._spans[number].tolist())


# --- encodings


def text_encoding(path: Path) -> str:
    """Return the encoding of a text file by its first bytes: a form of UTF-8, UTF-16 or UTF-32."""
    with open(path, "rb") as file:
        return json.detect_encoding(file.read(4))


def _utf8_copy(path: Path) -> Path:
    """Return the file itself if it is in UTF-8, else a copy of it in the cache that is.

    Raises:
        ValueError: it cannot be decoded.
    """
    encoding = text_encoding(path)
    if encoding.startswith("utf-8"):
        return path

    def write(copy: Path) -> None:
        with open(path, encoding=encoding, newline="") as source:
            with open(copy, "w", encoding="utf-8", newline="") as target:
                while text := source.read(_CHUNK):
                    target.write(text)

    try:
        return cached_file(path, "rows", path.suffix, write)
    except UnicodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): write it in UTF-8") from error


def _first_line(path: Path) -> bytes:
    """Return the first line that is not blank, stripped; its first bytes if it is long."""
    with open(path, "rb") as file:
        start = file.read(_CHUNK).removeprefix(codecs.BOM_UTF8).lstrip()
    return start.partition(b"\n")[0].strip()


# --- index


def _load_index(utf8: Path, path: Path, is_list: bool) -> np.ndarray:
    """Return the spans of all rows `[number of rows, 3]`, mapped from the disk unless the file is small."""

    def spans() -> Iterator[Span]:
        return _list_spans(utf8, path) if is_list else _line_spans(utf8)

    def in_memory() -> np.ndarray:
        numbers = array("q")
        for span in spans():
            numbers.extend(span)
        return np.array(numbers, dtype=np.int64).reshape(-1, 3)

    if utf8.stat().st_size < _IN_MEMORY:
        return in_memory()

    def write(index: Path) -> None:
        with open(index, "wb") as file:
            _write_spans(spans(), file)

    try:
        index = cached_file(path, "rows", ".index", write)
    except OSError:
        # The disk is full: each process keeps an index of its own.
        return in_memory()

    if not index.stat().st_size:
        return np.zeros((0, 3), dtype=np.int64)
    return np.memmap(index, dtype=np.int64, mode="r").reshape(-1, 3)


def _write_spans(spans: Iterable[Span], file: BinaryIO) -> None:
    numbers = array("q")
    for span in spans:
        numbers.extend(span)
        if len(numbers) >= 3 * _INDEX_ROWS:
            numbers.tofile(file)
            del numbers[:]
    numbers.tofile(file)


def _line_spans(path: Path) -> Iterator[Span]:
    """Yield the span of each line that is not blank."""
    start = 0
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            # Only the first line can begin with a byte order mark.
            skip = len(codecs.BOM_UTF8) if number == 1 and line.startswith(codecs.BOM_UTF8) else 0
            if line[skip:].strip():
                yield Span(start + skip, len(line) - skip, number)
            start += len(line)


def _list_spans(utf8: Path, path: Path) -> Iterator[Span]:
    """Yield the span of each value of a list.

    Raises:
        ValueError: the file is not JSON.
    """
    with open(utf8, "rb") as file:
        window = _Window(file)
        try:
            window.skip(1)  # the bracket
            if window.next_character() != "]":
                yield window.read_value()
                while window.next_character() == ",":
                    window.skip(1)
                    yield window.read_value()

            if window.next_character() != "]":
                raise json.JSONDecodeError("Expecting ',' delimiter", window.text, window.position)
            window.skip(1)
            if window.next_character():
                raise json.JSONDecodeError("Extra data", window.text, window.position)
        except json.JSONDecodeError as error:
            problem = f"{error.msg}: {window.place(error.pos)}"
            raise ValueError(f"{path} is not JSON ({problem}): write it anew") from error
        except RecursionError as error:
            raise ValueError(f"{path} is not JSON (it is nested too deeply): write it anew") from error


class _Window:
    """The part of a file that is being read, a character for each byte.

    As Latin-1, every byte is a character, and all that separates values is ASCII: positions are bytes, and a
    byte that is not UTF-8 spoils only the row that it stands in.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.text = ""
        self.position = 0
        self.is_complete = False  # whether the file ends with the window

        self._start = 0  # byte of the window's first character
        # Lines are counted up to a position of the window.
        self._counted = 0
        self._line = 1
        self._line_start = 0  # byte of the line's first character

        self._extend(_CHUNK)
        mark = codecs.BOM_UTF8.decode("latin-1")
        if self.text.startswith(mark):
            self.position = self._counted = self._line_start = len(mark)
        self.next_character()

    def next_character(self) -> str:
        """Move to the next character that is not blank and return it; empty at the end of the file."""
        while True:
            self.position = _WHITESPACE.match(self.text, self.position).end()
            if self.position < len(self.text):
                return self.text[self.position]
            if self.is_complete:
                return ""
            self._move(_CHUNK)

    def skip(self, characters: int) -> None:
        """Move on."""
        self.position += characters

    def read_value(self) -> Span:
        """Move behind the next value and return its span.

        Raises:
            json.JSONDecodeError: it is none.
        """
        self.next_character()
        while True:
            try:
                _, end = _DECODE(self.text, self.position)
                # A number may go on behind the window.
                if end < len(self.text) or self.is_complete:
                    break
                self._move(_CHUNK)
            except json.JSONDecodeError:
                # The value may go on behind the window, too.
                length = len(self.text) - self.position
                if self.is_complete or length > _MAX_ROW:
                    raise
                self._move(max(_CHUNK, length))

        self._count_lines(self.position)
        span = Span(self._start + self.position, end - self.position, self._line)
        self.position = end
        return span

    def place(self, position: int) -> str:
        """Return the line and the column of a position in the window."""
        self._count_lines(position)
        return f"line {self._line} column {self._start + position - self._line_start + 1}"

    def _move(self, size: int) -> None:
        """Forget what lies before the position, and read on."""
        self._count_lines(self.position)
        self.text = self.text[self.position :]
        self._start += self.position
        self.position = self._counted = 0
        self._extend(size)

    def _extend(self, size: int) -> None:
        content = self.file.read(size)
        self.is_complete = len(content) < size
        self.text += content.decode("latin-1")

    def _count_lines(self, position: int) -> None:
        line_end = self.text.rfind("\n", self._counted, position)
        if line_end >= 0:
            self._line += self.text.count("\n", self._counted, position)
            self._line_start = self._start + line_end + 1
        self._counted = max(self._counted, position)
