"""WebDataset shards: .tar files in which the members of one key (`0001.jpg`, `0001.json`) are one record.

Shards are not streamed but read through an index of where each member lies. So records can be read in any
order, and the order of a mixture is the same on any number of processes. The index is cached in
data/cache/shards.

A `.json` member holds the fields of a record in any form, a `.txt` member an answer. The images
are the members that end as images do, `0001.png` or, where there are several, `0001.0.png`, `0001.1.png`; the
JSON may name them.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from monkeylib.data.file_cache import cached_file
from monkeylib.data.json_rows import JsonRows
from monkeylib.data.records import BadRecord
from monkeylib.image_sources import SUFFIXES

Spans = dict[str, list[int]]  # suffix of a member -> its first byte and its length

_NUMBERED = re.compile(r"(\d+)\.(\w+)")
_IMAGE_FIELDS = ("image", "images")
# In place of a member's suffix: the shard ends there, within the member.
_CUT_OFF = "cut off"


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
    """The keys of one or more shards, with the members of each.

    A shard that is cut off has one more record, which is bad: it stands for all that is lost.

    Raises:
        ValueError: a shard is compressed, or not a tar file.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self._indices = [_load_index(file) for file in files]
        self._first_records = np.cumsum([0, *(len(index) for index in self._indices)])

    def __len__(self) -> int:
        return int(self._first_records[-1])

    def __getitem__(self, number: int) -> dict[str, Any]:
        shard, key, spans = self._find(number)
        if _CUT_OFF in spans:
            raise BadRecord(
                f"the shard is cut off here, after {shard.stat().st_size} bytes: this record and all behind "
                "it are lost; fetch it anew"
            )

        # Members are opened later: here they are only places in the shard.
        members = {suffix: TarMember(shard, *span) for suffix, span in spans.items()}

        # Downloaders write the caption twice, among other facts and alone.
        fields: dict[str, Any] = {}
        if "txt" in members:
            fields = {"answer": _read_text(members["txt"], "txt")}
        if "json" in members:
            fields |= _read_json(members["json"])

        return _with_images(fields | {"key": key}, members)

    def location(self, number: int) -> str:
        """Return the shard and the key."""
        shard, key, _ = self._find(number)
        return f"{shard.name}, key {key}"

    def _find(self, number: int) -> tuple[Path, str, Spans]:
        """Return the shard, the key and the members of a record."""
        # The last shard that begins at or before this record.
        shard = int(np.searchsorted(self._first_records, number, side="right")) - 1
        entry = self._indices[shard][number - int(self._first_records[shard])]

        return self.files[shard], entry["key"], entry["members"]


def _with_images(fields: dict[str, Any], members: dict[str, TarMember]) -> dict[str, Any]:
    """Return the fields of a record with its images in the field that its form reads."""
    # What the fields name by a member's name or suffix is this member.
    stem = fields["key"].rpartition("/")[2]
    by_name = {f"{stem}.{suffix}": member for suffix, member in members.items()} | members
    for name in _IMAGE_FIELDS:
        value = fields.get(name)
        names = value if isinstance(value, list) else [value]
        if value and all(isinstance(item, str) and _member_name(item) in by_name for item in names):
            return fields | {name: [by_name[_member_name(item)] for item in names]}

    numbered: dict[int, TarMember] = {}
    images = []
    for suffix, member in members.items():
        match = _NUMBERED.fullmatch(suffix)
        if match and f".{match[2]}" in SUFFIXES:
            numbered[int(match[1])] = member
        elif f".{suffix}" in SUFFIXES:
            images.append(member)

    images += [numbered[number] for number in sorted(numbered)]
    if not images and any(fields.get(name) for name in _IMAGE_FIELDS):
        return fields  # images outside of the shard

    # One field holds them all.
    fields.pop("image", None)
    return fields | {"images": images}


def _member_name(path: str) -> str:
    stem, dot, suffix = path.rpartition("/")[2].partition(".")
    return f"{stem}{dot}{suffix.lower()}"


def _read_text(member: TarMember, suffix: str) -> str:
    try:
        return member.content().decode("utf-8")
    except ValueError as error:
        raise BadRecord(f"the member .{suffix} must be UTF-8: {error}") from error


def _read_json(member: TarMember) -> dict[str, Any]:
    try:
        value = json.loads(member.content().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"the member .json must be UTF-8 and JSON: {error}") from error

    # A list alone is one of turns.
    if isinstance(value, list) and value:
        return {"conversations": value}
    if not isinstance(value, dict):
        raise BadRecord(f"the member .json must be an object with fields, got {type(value).__name__}")
    return value


def _load_index(shard: Path) -> JsonRows:
    """Return the keys of a shard in order, each with its members; from the cache if possible.

    The index is a file of JSON lines, which is not held in memory either.
    """
    return JsonRows(cached_file(shard, "shards", ".jsonl", partial(_write_index, shard)))


def _write_index(shard: Path, index: Path) -> None:
    with open(index, "w", encoding="utf-8") as file:
        for key, spans in _index(shard):
            file.write(json.dumps({"key": key, "members": spans}) + "\n")
        # An empty list, since an empty file is none.
        if not file.tell():
            file.write("[]\n")


def _index(shard: Path) -> Iterator[tuple[str, Spans]]:
    """Yield each key of a shard with its members; a key is a member's path up to the first dot of its name.

    Raises:
        ValueError: it is compressed, or not a tar file.
    """
    size = shard.stat().st_size
    # An archive is made of blocks.
    is_cut_off = size % tarfile.BLOCKSIZE != 0
    key, spans = "", {}
    try:
        # "r:" refuses compressed files, in which no member could be read alone.
        with tarfile.open(shard, "r:") as archive:
            try:
                for member in archive:
                    # Members are not looked up again: without this, tarfile would keep them all.
                    archive.members = []
                    folder, _, name = member.name.rpartition("/")
                    stem, dot, suffix = name.partition(".")
                    if not member.isfile() or not stem or not dot:
                        continue

                    # Members of one key follow each other, as the format demands.
                    key_of_member = f"{folder}/{stem}" if folder else stem
                    # A second member of one ending is another record, whose key repeats.
                    if key_of_member != key or suffix.lower() in spans:
                        if spans:
                            yield key, spans
                        key, spans = key_of_member, {}

                    # tarfile does not notice that the last member is truncated.
                    if member.offset_data + member.size > size:
                        raise tarfile.ReadError(f"{member.name} is cut off")

                    # First byte and length of the member's content.
                    spans[suffix.lower()] = [member.offset_data, member.size]
            except tarfile.TarError:
                # What is whole has been read.
                is_cut_off = True
    except tarfile.TarError as error:
        raise ValueError(
            f"{shard} is no whole, uncompressed tar file ({error}): unpack it or fetch it anew"
        ) from error

    # The record at the cut may lack members: it is lost, too.
    if is_cut_off:
        yield key, {_CUT_OFF: []}
    elif spans:
        yield key, spans
