"""Rows of JSON lists and JSON lines: an index of where each row lies, and one row read at a time."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from monkeylib.data.records import BadRecord

_BOM = b"\xef\xbb\xbf"
_BLANK = re.compile(r"[ \t\r\n]*")
_IDS = ("id", "question_id")


class JsonRows:
    """Rows of files ending in .jsonl (one object a line) or .json (one list of objects).

    The index keeps 24 bytes a row. Lines that are no JSON are bad rows; a list is checked as a whole, since
    nothing can be read after a mistake in it.

    Raises:
        ValueError: a file is empty, has another ending, or is not JSON.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self._ids: dict[int, Any] = {}
        spans, starts = array("q"), [0]
        for file in files:
            for start, length, line, value in _index(file):
                if isinstance(value, dict):
                    id = next((value[key] for key in _IDS if value.get(key) is not None), None)
                    if id is not None:
                        self._ids[len(spans) // 3] = id
                spans.extend((start, length, line))
            starts.append(len(spans) // 3)
        self._spans = np.frombuffer(spans, dtype=np.int64).reshape(-1, 3) if spans else np.zeros((0, 3), int)
        self._starts = starts

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, number: int) -> Any:
        start, length, _ = (int(value) for value in self._spans[number])
        with open(self._file(number), "rb") as file:
            file.seek(start)
            content = file.read(length)
        try:
            return json.loads(content.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise BadRecord(f"expected UTF-8, got the byte 0x{content[error.start]:02x}") from error
        except (ValueError, RecursionError) as error:
            raise BadRecord(f"expected an object of JSON, got {content.strip()[:60]!r} ({error})") from error

    def place(self, number: int) -> str:
        """File, number of the record in a list, and line."""
        file, line = self._file(number), int(self._spans[number][2])
        if file.suffix == ".jsonl":
            return f"{file.name}, line {line}"
        return f"{file.name}, record {number - self._starts[self.files.index(file)] + 1} (line {line})"

    def ids(self) -> Iterable[Any]:
        """Field `id` or `question_id` of each row; forgotten once given."""
        found, self._ids = self._ids, {}
        return (found.get(number) for number in range(len(self)))

    def _file(self, number: int) -> Path:
        return self.files[int(np.searchsorted(self._starts, number, side="right")) - 1]


def _index(file: Path) -> Iterator[tuple[int, int, int, Any]]:
    """Start and length in bytes, line, and value of each row; the value None where a line is no JSON."""
    if file.suffix not in (".json", ".jsonl"):
        raise ValueError(f"{file} must end in .json (a list) or .jsonl (an object a line)")
    if not file.stat().st_size:
        raise ValueError(f"{file} is empty: expected records in JSON")
    return _lines(file) if file.suffix == ".jsonl" else _list(file)


def _lines(file: Path) -> Iterator[tuple[int, int, int, Any]]:
    start = 0
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            skip = len(_BOM) if number == 1 and line.startswith(_BOM) else 0
            if line[skip:].strip():
                try:
                    value = json.loads(line[skip:])
                except (ValueError, RecursionError):  # said when the row is asked for
                    value = None
                yield start + skip, len(line) - skip, number, value
            start += len(line)


def _list(file: Path) -> Iterator[tuple[int, int, int, Any]]:
    # surrogateescape keeps bytes that are not UTF-8, so that only their own record is bad.
    content = file.read_bytes()
    skip = len(_BOM) if content.startswith(_BOM) else 0
    text = content[skip:].decode("utf-8", errors="surrogateescape")
    decode = json.JSONDecoder().raw_decode
    at = _BLANK.match(text).end()
    if text[at : at + 1] != "[":
        raise ValueError(
            f"{file} must hold a list of records, it begins with {text[at : at + 20]!r}; "
            "records of a line each belong in a file that ends in .jsonl"
        )
    byte, line, seen = skip, 1, 0
    try:
        at = _BLANK.match(text, at + 1).end()
        while text[at : at + 1] != "]":
            value, end = decode(text, at)
            byte += len(text[seen:at].encode("utf-8", "surrogateescape"))
            line += text.count("\n", seen, at)
            length = len(text[at:end].encode("utf-8", "surrogateescape"))
            yield byte, length, line, value
            byte, line, seen = byte + length, line + text.count("\n", at, end), end
            at = _BLANK.match(text, end).end()
            if text[at : at + 1] not in (",", "]"):
                raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
            if text[at] == ",":
                at = _BLANK.match(text, at + 1).end()
        if text[at + 1 :].strip():
            raise json.JSONDecodeError("Extra data", text, at + 1)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error}): write it anew") from error
