"""WebDataset shards: .tar files in which the members of one key (`0001.jpg`, `0001.json`) are one record.

Shards are not streamed but read through an index of where each member lies. So records can be read in any
order, and the order of a mixture is the same on any number of processes. The index is cached in
data/cache/shards.

The dataset's `columns` name the fields of a `.json` member; without one, `.txt` holds the answer.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monkeylib import resources
from monkeylib.data.readers.base import DatasetRecords, RawRecord, find_files, takes_question
from monkeylib.data.records import BadRecord, Record
from monkeylib.data.schema import DatasetEntry
from monkeylib.digests import text_digest
from monkeylib.images import SUFFIXES

Spans = dict[str, list[int]]  # suffix of a member -> its first byte and its length


def read_shards(entry: DatasetEntry, root: Path) -> DatasetRecords:
    """Read one or more shards.

    Raises:
        FileNotFoundError: a shard does not exist.
        ValueError: a shard is compressed, truncated, or not a tar file.
    """
    return DatasetRecords(entry, root, ShardRecords(find_files(entry, root)), _parse)


def _parse(raw: RawRecord) -> Record:
    """Parse the members of a key; its image is read when it is opened."""
    columns = raw.entry.columns

    # Captions need no question, so the field may be missing.
    question = raw.field(columns.question) if takes_question(raw.entry.prompt) else ""
    prompt = raw.prompt(question, columns.question)
    answer = raw.answer(raw.field(columns.answer), columns.answer)
    return raw.to_record(raw.field("images"), [(prompt, answer)], raw.field("key"))


@dataclass(frozen=True)
class TarMember:
    """A member of a shard, which opens as an image."""

    shard: Path
    start: int
    length: int

    def content(self) -> bytes:
        """Return its bytes."""
        with open(self.shard, "rb") as file:
            file.seek(self.start)
            return file.read(self.length)

    def __call__(self) -> bytes:
        """Return the image's bytes."""
        return self.content()


class ShardRecords:
    """The keys of one or more shards, with the members of each."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self._indices = [_load_index(file) for file in files]
        self._first_records = np.cumsum([0, *(len(index) for index in self._indices)])

    def __len__(self) -> int:
        return int(self._first_records[-1])

    def __getitem__(self, number: int) -> dict[str, Any]:
        shard, key, spans = self._find(number)
        # Members are opened later: here they are only places in the shard.
        members = {suffix: TarMember(shard, *span) for suffix, span in spans.items()}

        fields: dict[str, Any] = {}
        if "json" in members:
            fields = _read_json(members["json"])
        elif "txt" in members:
            fields = {"answer": _read_text(members["txt"], "txt")}

        images = [member for suffix, member in members.items() if f".{suffix}" in SUFFIXES]
        return fields | {"key": key, "images": images}

    def location(self, number: int) -> str:
        """Return the shard and the key."""
        shard, key, _ = self._find(number)
        return f"{shard.name}, key {key}"

    def ids(self) -> Iterable[str]:
        """Return the keys."""
        return (key for index in self._indices for key, _ in index)

    def _find(self, number: int) -> tuple[Path, str, Spans]:
        """Return the shard, the key and the members of a record."""
        # The last shard that begins at or before this record.
        shard = int(np.searchsorted(self._first_records, number, side="right")) - 1
        key, spans = self._indices[shard][number - int(self._first_records[shard])]

        return self.files[shard], key, spans


def _read_text(member: TarMember, suffix: str) -> str:
    try:
        return member.content().decode("utf-8")
    except ValueError as error:
        raise BadRecord(f"the member .{suffix} must be UTF-8: {error}") from error


def _read_json(member: TarMember) -> dict[str, Any]:
    try:
        value = json.loads(member.content().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"the member .json must be UTF-8 and JSON: {error}") from error

    if not isinstance(value, dict):
        raise BadRecord(f"the member .json must be an object with fields, got {type(value).__name__}")
    return value


def _load_index(shard: Path) -> list[tuple[str, Spans]]:
    """Return the keys of a shard in order, with their members; from the cache if possible."""
    # A shard that was written again has another size or time, and gets another index.
    stat = shard.stat()
    state = text_digest(f"{shard.resolve()} {stat.st_size} {stat.st_mtime_ns}")[:16]
    cached = resources.cache() / "shards" / f"{shard.stem}-{state}.json"

    if not cached.is_file():
        index = _build_index(shard)
        with resources.atomic_write(cached) as temporary:
            temporary.write_text(json.dumps(index), encoding="utf-8")

    return [(key, spans) for key, spans in json.loads(cached.read_text(encoding="utf-8"))]


def _build_index(shard: Path) -> list[tuple[str, Spans]]:
    """Index a shard; a key is the path of a member up to the first dot of its file name."""
    keys: list[tuple[str, Spans]] = []
    try:
        # "r:" refuses compressed files, in which no member could be read alone.
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                stem, dot, suffix = name.partition(".")
                if not member.isfile() or not stem or not dot:
                    continue

                # Members of one key follow each other, as the format demands.
                key = f"{folder}/{stem}" if folder else stem
                if not keys or keys[-1][0] != key:
                    keys.append((key, {}))

                # First byte and length of the member's content.
                keys[-1][1][suffix.lower()] = [member.offset_data, member.size]

                # tarfile does not notice that the last member is truncated.
                if member.offset_data + member.size > shard.stat().st_size:
                    raise tarfile.ReadError(f"{member.name} is cut off")
    except tarfile.TarError as error:
        raise ValueError(
            f"{shard} is no whole, uncompressed tar file ({error}): unpack it or fetch it anew"
        ) from error

    return keys
