"""WebDataset shards: .tar files whose members of one key (`0001.jpg`, `0001.json`) make a record.

Shards are read through an index of where each member lies, not as a stream, so that any record can be
asked for and sampling stays the same on any number of processes. The index is kept in data/cache/shards.
The set's `columns` name the fields of a `.json` member; without one, `.txt` holds the answer.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monkeylib import resources
from monkeylib.data.readers.base import Row, SetRecords, locate, takes_question
from monkeylib.data.records import FORMATS, BadRecord, Record
from monkeylib.data.schema import DataSet
from monkeylib.digests import text_digest

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")


def read(entry: DataSet, root: Path) -> SetRecords:
    """The records of shards.

    Raises:
        FileNotFoundError: a shard isn't there.
        ValueError: a shard is compressed, cut off, or no tar file.
    """
    return SetRecords(entry, root, ShardRows(locate(entry, root)), parse)


def parse(row: Row) -> Record:
    """A record of a key's members; its image is read when it is opened."""
    columns = row.entry.columns
    question = row.field(columns.question) if takes_question(row.entry.prompt) else ""
    prompt = row.prompt(question, columns.question)
    answer = row.answer(row.field(columns.answer), columns.answer)
    return row.record(row.field("images"), [(prompt, answer)], row.field("key"))


@dataclass(frozen=True)
class Member:
    """A member of a shard, which opens as an image."""

    shard: Path
    start: int
    length: int

    def content(self) -> bytes:
        """Its bytes."""
        with open(self.shard, "rb") as file:
            file.seek(self.start)
            return file.read(self.length)

    def __call__(self) -> Image.Image:
        """The image, its pixels not yet decoded."""
        return Image.open(io.BytesIO(self.content()), formats=FORMATS)


class ShardRows:
    """Keys of shards, and the members of each."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self._indices = [_index(file) for file in files]
        self._starts = np.cumsum([0, *(len(index) for index in self._indices)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> dict[str, Any]:
        shard, key, members = self._sample(number)
        opened = {ending: Member(shard, *span) for ending, span in members.items()}
        images = [opened[ending] for ending in opened if ending in IMAGES]
        row: dict[str, Any] = {}
        if "json" in opened:
            row = _decoded(opened["json"], "json")
        elif "txt" in opened:
            row = {"answer": _decoded(opened["txt"], "txt")}
        return row | {"key": key, "images": images}

    def place(self, number: int) -> str:
        """Shard and key."""
        shard, key, _ = self._sample(number)
        return f"{shard.name}, key {key}"

    def ids(self) -> Iterable[str]:
        """The keys."""
        return (key for index in self._indices for key, _ in index)

    def _sample(self, number: int) -> tuple[Path, str, dict[str, list[int]]]:
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self.files[shard], *self._indices[shard][number - int(self._starts[shard])]


def _decoded(member: Member, ending: str) -> Any:
    try:
        text = member.content().decode("utf-8")
        value = json.loads(text) if ending == "json" else text
    except (ValueError, RecursionError) as error:
        raise BadRecord(
            f"the member .{ending} must be UTF-8{' and JSON' * (ending == 'json')}: {error}"
        ) from error
    if ending == "json" and not isinstance(value, dict):
        raise BadRecord(f"the member .json must be an object with fields, got {type(value).__name__}")
    return value


def _index(shard: Path) -> list[tuple[str, dict[str, list[int]]]]:
    """Keys in their order, each with start and length of its members by ending; from the cache if there."""
    stat = shard.stat()
    state = text_digest(f"{shard.resolve()} {stat.st_size} {stat.st_mtime_ns}")[:16]
    cached = resources.cache() / "shards" / f"{shard.stem}-{state}.json"
    if not cached.is_file():
        index = _members(shard)
        with resources.atomic_write(cached) as temporary:
            temporary.write_text(json.dumps(index), encoding="utf-8")
    return [(key, members) for key, members in json.loads(cached.read_text(encoding="utf-8"))]


def _members(shard: Path) -> list[tuple[str, dict[str, list[int]]]]:
    """The index of a shard. A key is what stands before the first dot of the file name, with its folder."""
    keys: list[tuple[str, dict[str, list[int]]]] = []
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                stem, dot, ending = name.partition(".")
                if not member.isfile() or not stem or not dot:
                    continue
                key = f"{folder}/{stem}" if folder else stem
                if not keys or keys[-1][0] != key:
                    keys.append((key, {}))
                keys[-1][1][ending.lower()] = [member.offset_data, member.size]
                if member.offset_data + member.size > shard.stat().st_size:
                    raise tarfile.ReadError(f"{member.name} is cut off")
    except tarfile.TarError as error:
        raise ValueError(
            f"{shard} is no whole, uncompressed tar file ({error}): unpack it or fetch it anew"
        ) from error
    return keys
