"""Records on disk: files of records, and the shards in which a run commits them.

JSONL holds a record per line, parquet one per row, and both hold the same. In parquet, boxes are lists of
four numbers and corners lists of four lists of two. The settings of an expert are JSON, since each expert has
others. `datasets` and pandas read these files as they are.

A shard is the unit of work: its records appear all at once, with their checksum, or not at all. A committed
shard is a parquet file and, written after it, its entry: a JSON file of the same name with the number of
records and the SHA-256 of the parquet. The name holds the shard's index and a digest of its images and of the
configuration, so a shard of other images or another configuration is another file. Committing twice gives
the same bytes: it does not matter which process runs a shard, and how often.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from monkeylib import resources
from monkeylib.captions.annotations import SCHEMA_VERSION, Provenance, Record
from monkeylib.captions.input_images import InputImage
from monkeylib.captions.stages import StageStatistics
from monkeylib.digests import file_digest, json_digest
from monkeylib.errors import first_problem
from monkeylib.progress import CountCallback

if TYPE_CHECKING:
    import pyarrow

SHARD_SIZE = 1000  # images
RECORDS = "records.jsonl"
SHARD_LIST = "manifest.json"
PARQUET = ".parquet"
OUTCOMES = ("records", "described", "undescribed", "failed", "pending")

_SHARD_FILE = re.compile(r"(\d{6}-[0-9a-f]{16})\.(?:parquet|json)")


# --- files of records -------------------------------------------------------------------------------------


def write_records(records: Iterable[Record], path: Path | str, *, durable: bool = False) -> Path:
    """Write records atomically, as parquet or JSONL by the suffix of `path`. Return the path.

    The same records give the same bytes.

    Args:
        records: the records.
        path: ends in .parquet for parquet; anything else is JSONL.
        durable: see `resources.atomic_write`.
    """
    path = Path(path)
    if path.suffix == PARQUET:
        from pyarrow import parquet

        table = _parquet_table(records)
        with resources.atomic_write(path, durable=durable) as temporary:
            parquet.write_table(table, temporary, compression="zstd")
    else:
        with resources.atomic_write(path, durable=durable) as temporary:
            with temporary.open("w", encoding="utf-8") as file:
                for record in records:
                    file.write(record.model_dump_json() + "\n")

    return path


def read_records(path: Path | str) -> Iterator[Record]:
    """Yield the records of a JSONL or parquet file, in its order.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a line is not a record, or was written with another version of the schema.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There are no records at {path}: write them with captions.pipeline.caption_images first."
        )

    if path.suffix == PARQUET:
        yield from _read_parquet(path)
    else:
        yield from _read_jsonl(path)


def _read_jsonl(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            location = f"Line {number} of {path}"
            try:
                fields = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{location} is no record: {error}.") from error
            yield _parse_record(fields, location)


def _parse_record(fields: Any, location: str) -> Record:
    # A record of another version would only give confusing errors about single fields.
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if version is not None and version != SCHEMA_VERSION:
        raise ValueError(
            f"{location} has schema version {version}, this code reads {SCHEMA_VERSION}: annotate anew."
        )

    try:
        return Record.model_validate(fields)
    except ValidationError as error:
        raise ValueError(f"{location} is no record: {first_problem(error, 'the record')}.") from error


def _parquet_schema() -> "pyarrow.Schema":
    """Return the columns of a parquet file of records."""
    import pyarrow as pa

    text = pa.string()
    number = pa.float64()
    box = pa.list_(number)
    mask = pa.struct({"size": pa.list_(pa.int32()), "counts": text})

    # Columns with a list of structures in each row.
    lists = {
        "captions": {"text": text, "expert": text, "score": number},
        "regions": {"box": box, "text": text, "score": number, "expert": text, "kind": text,
                    "match": number, "mask": mask},
        "lines": {"quad": pa.list_(box), "text": text, "confidence": number, "expert": text},
        "dropped": {"text": text, "box": box, "expert": text, "reason": text, "kind": text,
                    "value": number},
        "provenance": {"expert": text, "version": text, "settings": text, "licence": text},
        "failures": {"stage": text, "error": text, "kind": text},
    }  # fmt: skip

    words = pa.list_(text)
    columns = {
        "schema_version": pa.int32(), "name": text, "sha256": text, "width": pa.int32(), "height": pa.int32(),
        "status": text, "original_caption": text, "detailed_caption": text,
        "check": pa.struct({"grounding": number, "sentences": pa.int32(), "unsupported": words,
                            "problems": words}),
        "notices": words,
    }  # fmt: skip

    return pa.schema({**columns, **{name: pa.list_(pa.struct(fields)) for name, fields in lists.items()}})


def _parquet_table(records: Iterable[Record]) -> "pyarrow.Table":
    """Return the rows of a parquet file of records."""
    import pyarrow as pa

    # Settings differ between experts, so a column of structures would not fit them.
    rows = [record.model_dump(mode="json") for record in records]
    for row in rows:
        for item in row["provenance"]:
            item["settings"] = json.dumps(item["settings"], sort_keys=True)

    return pa.Table.from_pylist(rows, schema=_parquet_schema())


def _read_parquet(path: Path) -> Iterator[Record]:
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(1000):
            for row in batch.to_pylist():
                number += 1
                # Settings are JSON, see `_parquet_table`.
                for item in row.get("provenance") or ():
                    item["settings"] = json.loads(item["settings"])
                yield _parse_record(row, f"Row {number} of {path}")
    except pa.ArrowException as error:
        raise ValueError(f"{path} cannot be read as parquet ({error}): write it anew") from error


# --- shards -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """Images that are run and committed together.

    Fields:
        index: position among the shards of a run.
        digest: digest of its images and of the configuration.
        images: its images, in order.
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
        provenance: provenance of all stages.
        size: number of images of a shard.
        progress: called after each shard with its number of images, and that their checksums are not cached.

    Raises:
        ValueError: the size is below 1.
    """
    if size < 1:
        raise ValueError(f"A shard needs at least one image, got a size of {size}.")

    # A change of any of these gives other shards.
    configuration = [SCHEMA_VERSION, *(item.model_dump(mode="json") for item in provenance)]
    shards = []
    with ThreadPoolExecutor(4) as threads:  # reading and hashing release the interpreter's lock
        for start in range(0, len(images), size):
            members = tuple(images[start : start + size])
            checksums = tuple(threads.map(_checksum, members))

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
    """Write a shard's records, and then the entry that commits them.

    Raises:
        ValueError: there is not one record for each image of the shard, in their order.
    """
    names = [image.name for image in shard.images]
    if [record.name for record in records] != names:
        raise ValueError(f"shard {shard.name} has {len(records)} records for {len(names)} images")

    file = _parquet(folder, shard)
    entry = {
        "file": file.name,
        **count_outcomes(records),
        "stages": [asdict(stage) for stage in statistics],
    }

    # The records first: an entry must never point at records that a crash could lose.
    write_records(records, file, durable=True)
    entry["sha256"] = file_digest(file)
    with resources.atomic_write(file.with_suffix(".json"), durable=True) as temporary:
        temporary.write_text(json.dumps(entry), encoding="utf-8")


def count_outcomes(records: Iterable[Record]) -> dict[str, int]:
    """Return how many records there are, and how many of each outcome.

    Returns:
        `records` is the sum of `described` (every stage succeeded, and there is a caption), `undescribed`
        (every stage succeeded, but there is nothing to say) and `failed` (a stage failed). `pending` of
        the failed ones are tried again by the next run.
    """
    counts = dict.fromkeys(OUTCOMES, 0)
    for record in records:
        counts["records"] += 1
        if record.failures:
            counts["failed"] += 1
            counts["pending"] += any(failure.is_retried for failure in record.failures)
        else:
            counts["described" if record.detailed_caption else "undescribed"] += 1

    return counts


def read_entry(folder: Path, shard: Shard) -> dict[str, Any] | None:
    """Return the entry of a committed shard, None if it or its records are missing or damaged."""
    file = _parquet(folder, shard)
    try:
        entry = json.loads(file.with_suffix(".json").read_bytes())
        # A parquet that was cut off or changed has another digest.
        intact = entry["records"] == len(shard.images) and entry["sha256"] == file_digest(file)
        intact = intact and all(name in entry for name in OUTCOMES)
    except (OSError, ValueError, KeyError, TypeError):
        return None

    return entry if intact else None


def committed_images(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield name, SHA-256 and original caption of each image in a folder of shards, from any of its runs.

    The SHA-256 is empty where the image could not be read. Damaged files, which hold no results, are left
    out.
    """
    import pyarrow as pa
    from pyarrow import parquet

    columns = ["name", "sha256", "original_caption"]
    for file in sorted(folder.glob(f"*{PARQUET}")):
        # Without its entry a shard is not committed.
        if not _SHARD_FILE.fullmatch(file.name) or not file.with_suffix(".json").exists():
            continue
        try:
            rows = parquet.read_table(file, columns=columns).to_pylist()
        except (pa.ArrowException, OSError):
            continue
        for row in rows:
            yield row["name"], row["sha256"] or "", row["original_caption"] or ""


def gather_shards(folder: Path, shards: Sequence[Shard], out: Path) -> dict[str, Any]:
    """Join committed shards, in their order, to `out/records.jsonl`, and list them in `out/manifest.json`.

    Nothing is written if both files are there and list these shards.

    Returns:
        The manifest: `schema_version`, the numbers of `count_outcomes`, the `bytes` of records.jsonl, and the
        `shards`.

    Raises:
        ValueError: a shard is not committed.
    """
    listed = []
    for shard in shards:
        entry = read_entry(folder, shard)
        if entry is None:
            raise ValueError(f"shard {shard.name} in {folder} is incomplete: run the same call again")
        file = f"{folder.relative_to(out).as_posix()}/{entry['file']}"
        listed.append({"file": file, "sha256": entry["sha256"], **{name: entry[name] for name in OUTCOMES}})

    manifest: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    for name in OUTCOMES:
        manifest[name] = sum(entry[name] for entry in listed)

    if gathered := _read_gathered(out, manifest, listed):
        return gathered

    # Records are streamed from shard to file, never all in memory.
    records = write_records(_records(folder, shards), out / RECORDS, durable=True)
    manifest |= {"bytes": records.stat().st_size, "shards": listed}
    with resources.atomic_write(out / SHARD_LIST, durable=True) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def _read_gathered(
    out: Path, manifest: dict[str, Any], listed: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """Return the manifest of an earlier run if it lists the same shards, and its records are there."""
    try:
        gathered = json.loads((out / SHARD_LIST).read_bytes())
        size = (out / RECORDS).stat().st_size
    except (OSError, ValueError):
        return None

    return gathered if gathered == {**manifest, "bytes": size, "shards": listed} else None


def remove_other_shards(folder: Path, shards: Sequence[Shard]) -> None:
    """Remove the shards of earlier runs, over other images or with other settings, from a folder of shards.

    The folder then holds every image once. Only files with the name of a shard are removed.
    """
    names = {shard.name for shard in shards}
    for path in sorted(folder.iterdir()):
        match = _SHARD_FILE.fullmatch(path.name)
        if match and match[1] not in names and path.is_file():
            path.unlink()


def _records(folder: Path, shards: Sequence[Shard]) -> Iterator[Record]:
    for shard in shards:
        yield from read_records(_parquet(folder, shard))


def _parquet(folder: Path, shard: Shard) -> Path:
    return folder / f"{shard.name}.parquet"
