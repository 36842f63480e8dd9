"""Shards: the unit of work. The records of a shard appear all at once, with their checksum, or not at all.

A committed shard is a parquet file and, written after it, its entry: a JSON file of the same name with the
number of records and the SHA-256 of the parquet. The name holds the shard's index and a digest of its images
and of everything that was done with them, so a shard of other images or another configuration is another
file. Committing twice gives the same bytes: it does not matter who runs a shard, and how often.
"""

import json
from collections.abc import Iterator, Sequence
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
from monkeylib.progress import CountCallback

SHARD_SIZE = 1000  # images
RECORDS = "records.jsonl"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """Images that are run and committed together.

    Fields:
        index: its place among the shards of a run.
        digest: of its images and of everything that is done with them.
        images: in their order.
        sha256: digest of each image, empty where the file cannot be read.
    """

    index: int
    digest: str
    images: tuple[InputImage, ...]
    sha256: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the shard's files, without suffix. Names sort in the order of the images."""
        return f"{self.index:06d}-{self.digest[:16]}"


def plan_shards(
    images: Sequence[InputImage],
    provenance: Sequence[Provenance],
    size: int = SHARD_SIZE,
    progress: CountCallback | None = None,
) -> list[Shard]:
    """Divide images into shards, in their order. Reads every file once for its checksum.

    Args:
        images: the images.
        provenance: of everything that will be done with them.
        size: images of a shard.
        progress: called after each shard with its number of images, and that their checksums are not cached.

    Raises:
        ValueError: the size is below 1.
    """
    if size < 1:
        raise ValueError(f"A shard needs at least one image, got a size of {size}.")

    # A change of any of these gives other shards.
    configuration = [SCHEMA_VERSION, *(item.model_dump(mode="json") for item in provenance)]
    shards = []
    with ThreadPoolExecutor(4) as pool:  # reading and hashing release the interpreter's lock
        for start in range(0, len(images), size):
            members = tuple(images[start : start + size])
            checksums = tuple(pool.map(_checksum, members))

            content = [
                (image.name, image.original_caption, checksum)
                for image, checksum in zip(members, checksums, strict=True)
            ]
            digest = json_digest([configuration, content])
            shards.append(Shard(len(shards), digest, members, checksums))
            if progress:
                progress(len(members), False)
    return shards


def _checksum(image: InputImage) -> str:
    try:
        return image.sha256()
    except Exception:  # on images in memory, Pillow's plugins raise whatever they like
        return ""  # the failure is recorded when the image is opened


def commit_shard(
    folder: Path, shard: Shard, records: Sequence[Record], statistics: Sequence[StageStatistics]
) -> None:
    """Write a shard's records, and then the entry that makes them count.

    Raises:
        ValueError: there is not one record for each image of the shard, in their order.
    """
    names = [image.name for image in shard.images]
    if [record.name for record in records] != names:
        raise ValueError(f"shard {shard.name} has {len(records)} records for {len(names)} images")

    file = _parquet(folder, shard)
    entry = {
        "file": file.name,
        "records": len(records),
        "failed": sum(record.status != "ok" for record in records),
        "stages": [asdict(stage) for stage in statistics],
    }

    # The records first: an entry must never point at records that a crash could lose.
    write_records(records, file, durable=True)
    entry["sha256"] = file_digest(file)
    with resources.atomic_write(file.with_suffix(".json"), durable=True) as temporary:
        temporary.write_text(json.dumps(entry), encoding="utf-8")


def read_entry(folder: Path, shard: Shard) -> dict[str, Any] | None:
    """Return the entry of a committed shard, None if it or its records are missing or damaged."""
    file = _parquet(folder, shard)
    try:
        entry = json.loads(file.with_suffix(".json").read_bytes())
        intact = entry["records"] == len(shard.images) and entry["sha256"] == file_digest(file)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return entry if intact else None


def gather_shards(folder: Path, shards: Sequence[Shard], out: Path) -> dict[str, Any]:
    """Join committed shards, in their order, to `out/records.jsonl`, and list them in `out/manifest.json`.

    Returns:
        The manifest: `schema_version`, numbers of `records` and of `failed` ones, and the `shards`.

    Raises:
        ValueError: a shard is not committed.
    """
    listed = []
    for shard in shards:
        entry = read_entry(folder, shard)
        if entry is None:
            raise ValueError(f"shard {shard.name} in {folder} is incomplete: run the same call again")
        file = f"{folder.relative_to(out).as_posix()}/{entry['file']}"
        listed.append(
            {**{name: entry[name] for name in ("file", "records", "failed", "sha256")}, "file": file}
        )

    manifest = {
        "schema_version": SCHEMA_VERSION,
        "records": sum(entry["records"] for entry in listed),
        "failed": sum(entry["failed"] for entry in listed),
        "shards": listed,
    }
    # Records are streamed from shard to file, never all in memory.
    write_records(_records(folder, shards), out / RECORDS)
    with resources.atomic_write(out / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def _records(folder: Path, shards: Sequence[Shard]) -> Iterator[Record]:
    for shard in shards:
        yield from read_records(_parquet(folder, shard))


def _parquet(folder: Path, shard: Shard) -> Path:
    return folder / f"{shard.name}.parquet"
