"""Original captions of images from one file: JSON, JSONL, CSV, TSV, parquet, or CC3M's own list.

The rows lie in a temporary database, so that memory doesn't grow with their number.
"""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from monkeylib.data.json_rows import text_encoding
from monkeylib.data.readers import read_rows
from monkeylib.digests import DigestSet
from monkeylib.errors import beginning

_NAME_FIELDS = ("image", "name", "file", "file_name", "path", "key")
_CAPTION_FIELDS = ("caption", "text", "TEXT")
_ADDRESS_FIELDS = ("url", "URL")
_STATUS, _FETCHED = "status", "success"  # of a downloader's row

_DIGITS = 18  # of a row's number, at most
_UNDECODED = re.compile("[\udc80-\udcff]")  # bytes that were not UTF-8
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
# What `read_rows` and wrong fields raise.
_NO_CAPTIONS = (KeyError, TypeError, AttributeError, ValueError, csv.Error, UnicodeError)


class _NotUtf8(ValueError):
    """A line has bytes that are no text."""


class OriginalCaptions:
    """Captions by the names of images.

    An image's caption is that of its name; else of its file name, with or without its ending, if only one
    image has it; else of the address that a downloader wrote beside it. Rows that have addresses but no names
    (CC3M's list: caption TAB address) also belong to the images that a downloader has named by their number
    in it: `000000001.jpg` is the second row.

    Args:
        path: a JSON object of captions by name, or rows with the caption under "caption" or "text" and the
            name under "image", "name", "file", "file_name", "path" or "key". Of several captions in a list,
            the first one is read.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it holds something else.

    Attributes:
        count: rows with a caption.
        not_fetched: rows of images that a downloader did not get.
        by_position: whether an image was found by its number.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"there are no captions at {path}: check the path")

        self.path = path
        self.count = self.not_fetched = 0
        self.by_position = False
        self._has_positions = _is_list_of_addresses(path)

        # A database without a name lies in temporary files, which go with it.
        self._database = sqlite3.connect("")
        self._database.execute("CREATE TABLE captions (number INTEGER PRIMARY KEY, name TEXT, caption TEXT)")
        try:
            self._database.executemany("INSERT INTO captions VALUES (?, ?, ?)", self._rows())
        except _NotUtf8 as error:
            raise ValueError(f"{path}, {error}: save the captions as UTF-8") from error
        except _NO_CAPTIONS as error:
            raise ValueError(
                f"{path} holds no captions: expected a JSON object of captions by name, rows (JSON, JSONL, "
                f"CSV, TSV, parquet) with the fields caption and one of {', '.join(_NAME_FIELDS)}, or lines "
                "of a caption, a tab and an address."
            ) from error
        self._database.execute("CREATE INDEX names ON captions (name)")
        self._used = bytearray(self._size())

        # Names that several images have.
        self._shared_names = DigestSet()

    @property
    def unmatched(self) -> int:
        """Number of captions that `find` has returned for no image."""
        return self.count - sum(self._used)

    def first_name(self) -> str:
        """Return the name in the first row."""
        row = self._database.execute("SELECT name FROM captions ORDER BY number LIMIT 1").fetchone()
        return row[0] if row else "nothing"

    def note_names(self, names: Iterable[str]) -> None:
        """Note the names of all images: what several share names none. Takes 16 bytes for each."""
        numbers = (DigestSet.number(short) for name in names for short in _short_names(name))
        unique, counts = np.unique(np.fromiter(numbers, np.uint64), return_counts=True)
        self._shared_names = DigestSet(unique[counts > 1])

    def find(self, name: str, address: str = "") -> str | None:
        """Return the caption of an image, None if there is none.

        Args:
            name: its name, with `/` between folders.
            address: where it was fetched, if that is known.
        """
        names = [name]
        names += [short for short in _short_names(name) if short != name and short not in self._shared_names]
        if address:
            names.append(_as_utf8(address))

        marks = ",".join("?" * len(names))
        rows = self._database.execute(
            f"SELECT name, number, caption FROM captions WHERE name IN ({marks})", names
        ).fetchall()
        # The latest row of a name counts, and the fullest name.
        by_name = {row[0]: row[1:] for row in rows}
        row = next((by_name[name] for name in names if name in by_name), None)

        stem = PurePosixPath(name).stem
        # A longer number is no row, and none that SQLite takes.
        is_number = stem.isdecimal() and len(stem) <= _DIGITS
        if row is None and not address and self._has_positions and is_number:
            row = self._database.execute(
                "SELECT number, caption FROM captions WHERE number = ?", (int(stem),)
            ).fetchone()
            self.by_position = self.by_position or row is not None
        if row is None:
            return None
        self._used[row[0]] = 1
        return row[1].strip()

    def _size(self) -> int:
        (last,) = self._database.execute("SELECT MAX(number) FROM captions").fetchone()
        return 0 if last is None else last + 1

    def _rows(self) -> Iterator[tuple[int, str, str]]:
        """Yield number, name or address, and caption of each row that has one.

        Raises:
            ValueError: a row has other fields.
        """
        for number, (name, caption) in enumerate(self._read()):
            if caption.strip():
                self.count += 1
                # SQLite takes no half surrogates.
                yield number, _as_utf8(name), _as_utf8(caption)

    def _read(self) -> Iterator[tuple[str, str]]:
        """Yield name or address and caption of each row."""
        if self._has_positions:
            yield from _read_list_of_addresses(self.path)
            return

        for _, row in _read_rows(self.path):
            if _STATUS in row and row[_STATUS] not in (_FETCHED, None, ""):
                self.not_fetched += 1
                yield "", ""
                continue

            # The first of the fields that the row has.
            names = [row[name] for name in (*_NAME_FIELDS, *_ADDRESS_FIELDS) if _is_name(row.get(name))]
            captions = [row[name] for name in _CAPTION_FIELDS if name in row]
            if not names or not captions:
                raise ValueError(f"there is no name or no caption in {beginning(str(row), 80)}")
            yield str(names[0]), _as_caption(captions[0])


def _read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the rows of a file with their places; a JSON object of captions by name is a row for each."""
    encoding = text_encoding(path)
    if path.suffix.lower() == ".json":
        with path.open(encoding=encoding) as file:
            is_object = file.read(4096).lstrip("\ufeff \t\r\n").startswith("{")
        if is_object:
            content = json.loads(path.read_text(encoding=encoding))
            for name, caption in content.items():
                yield "", {"name": name, "caption": caption}
            return

    yield from read_rows(path)


def _is_list_of_addresses(path: Path) -> bool:
    """Return whether the first line of a file is a caption, a tab and an address, as in CC3M's list."""
    with path.open("rb") as file:
        cells = file.readline(1 << 16).decode("utf-8-sig", errors="replace").rstrip("\r\n").split("\t")
    return len(cells) == 2 and _ADDRESS.match(cells[1]) is not None


def _read_list_of_addresses(path: Path) -> Iterator[tuple[str, str]]:
    """Yield address and caption of each line. Quotes have no meaning in it."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if _UNDECODED.search(line):
                raise _NotUtf8(f"line {number} is not UTF-8")
            caption, tab, address = line.rstrip("\r\n").partition("\t")
            if not tab and line.strip():
                raise ValueError(f"line {number} has no tab")
            yield address, caption


def _is_name(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _as_caption(value: Any) -> str:
    """Return the caption in a field; of a list of captions, the first one.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, list | tuple):
        value = next((caption for caption in value if caption), None)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{beginning(str(value), 80)} is no caption")
    return str(value)


def _short_names(name: str) -> list[str]:
    """Return an image's file name with and without its ending."""
    path = PurePosixPath(name)
    return list(dict.fromkeys([path.name, path.stem]))


def _as_utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
