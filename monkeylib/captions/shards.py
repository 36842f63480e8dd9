"""Shards: the unit of work. A shard's records appear at once, with their checksum, or not at all.

A committed shard is a parquet file and, written after it, a JSON file of the same name with the number of
rows and the SHA-256 of the parquet. Its name holds its place and a digest of its images and of everything
that was done with them, so a shard of other images or another configuration is another file. Committing
twice gives the same bytes: who runs a shard, and how often, doesn't matter.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monkeylib import resources
from monkeylib.captions.annotations import SCHEMA_VERSION, Provenance, Record
from monkeylib.captions.input_images import InputImage
from monkeylib.captions.record_files import read_records, write_records
from monkeylib.captions.stages import StageStatistics
from monkeylib.digests import file_digest, json_digest

SIZE = 1000  # images
RECORDS, MANIFEST = "records.jsonl", "manifest.json"


@dataclass(frozen=True)
class Shard:
    """Images that are worked on and committed together."""

    index: int
    digest: str
    sources: tuple[InputImage, ...]
    sha256: tuple[str, ...]  # of each image, empty where the file can't be read

    @property
    def name(self) -> str:
        """Of its files, without suffix; names sort in the order of the images."""
        return f"{self.index:06d}-{self.digest[:16]}"


def plan(
    sources: Sequence[InputImage],
    provenance: Sequence[Provenance],
    size: int = SIZE,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Shard]:
    """Divide images into shards, in their order; reads every file once for its checksum.

    Args:
        sources: the images.
        provenance: of everything that will be done with them.
        size: images of a shard.
        advance: called with how many more have been read.

    Raises:
        ValueError: a size below 1.
    """
    if size < 1:
        raise ValueError(f"A shard needs at least one image, got a size of {size}.")
    work = [SCHEMA_VERSION, *(item.model_dump(mode="json") for item in provenance)]
    shards = []
    with ThreadPoolExecutor(4) as pool:  # reading and hashing release the interpreter's lock
        for index, start in enumerate(range(0, len(sources), size)):
            part = tuple(sources[start : start + size])
            sums = tuple(pool.map(_checksum, part))
            images = [(s.name, s.original_caption, sha) for s, sha in zip(part, sums, strict=True)]
            shards.append(Shard(index, json_digest([work, images]), part, sums))
            advance(len(part))
    return shards


def _checksum(source: InputImage) -> str:
    try:
        return source.sha256()
    except Exception:  # of Pillow's plugins too, on images in memory
        return ""  # reading the image will say what is wrong


def commit(
    folder: Path, shard: Shard, records: Sequence[Record], tallies: Sequence[StageStatistics]
) -> dict[str, Any]:
    """Write a shard's records and then the entry that makes them count; returns the entry.

    Raises:
        ValueError: there isn't a record for each image of the shard, in their order.
    """
    names = [source.name for source in shard.sources]
    if [record.name for record in records] != names:
        raise ValueError(f"shard {shard.name} has {len(records)} records for {len(names)} images")
    file = _parquet(folder, shard)
    with resources.atomic_write(file) as temporary:
        write_records(records, temporary)
        _to_disk(temporary)
    entry = {
        "file": file.name,
        "records": len(records),
        "failed": sum(record.status != "ok" for record in records),
        "sha256": file_digest(file),
        "stages": [asdict(tally) for tally in tallies],
    }
    with resources.atomic_write(file.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(entry), encoding="utf-8")
        _to_disk(temporary)
    return entry


def committed(folder: Path, shard: Shard) -> dict[str, Any] | None:
    """The entry of a shard whose records are there and whole, else None."""
    file = _parquet(folder, shard)
    try:
        entry = json.loads(file.with_suffix(".json").read_bytes())
        whole = entry["records"] == len(shard.sources) and entry["sha256"] == file_digest(file)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return entry if whole else None


def gather(folder: Path, shards: Sequence[Shard], out: Path) -> Path:
    """Join committed shards, in their order, to `out/records.jsonl`, and list them in `out/manifest.json`.

    Raises:
        ValueError: a shard isn't committed.
    """
    entries = [committed(folder, shard) for shard in shards]
    for shard, entry in zip(shards, entries, strict=True):
        if entry is None:
            raise ValueError(f"shard {shard.name} in {folder} isn't whole: run the same call again")

    def records() -> Iterator[Record]:
        for shard in shards:
            yield from read_records(_parquet(folder, shard))

    file = write_records(records(), out / RECORDS)
    listed = [{k: entry[k] for k in ("file", "records", "failed", "sha256")} for entry in entries if entry]
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "records": sum(entry["records"] for entry in listed),
        "failed": sum(entry["failed"] for entry in listed),
        "shards": [
            {**entry, "file": f"{folder.relative_to(out).as_posix()}/{entry['file']}"} for entry in listed
        ],
    }
    with resources.atomic_write(out / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return file


def _parquet(folder: Path, shard: Shard) -> Path:
    return folder / f"{shard.name}.parquet"


def _to_disk(file: Path) -> None:
    """Have the operating system write a file out before its name counts."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
