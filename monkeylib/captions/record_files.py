"""Records on disk: files of records, and the shards in which a run commits them.

JSONL holds a record per line, parquet one per row, and both hold the same. In parquet, boxes are lists of
four numbers and corners lists of four lists of two. The settings of an expert are JSON, since each expert has
others. `datasets` and pandas read these files as they are.

A shard is the unit of work: its records appear all at once, or not at all. It is one parquet file, whose own
metadata hold the digest of the shard and the number of records of each outcome. The file's name holds the
shard's index and the beginning of that digest, which is of its images and of the configuration, so a shard of
other images or another configuration is another file. Committing twice gives the same bytes: it does not
matter which process runs a shard, and how often.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from monkeylib import resources
from monkeylib.captions.annotations import SCHEMA_VERSION, Provenance, Record
from monkeylib.captions.input_images import InputImage
from monkeylib.digests import MISSING, FileDigests, json_digest
from monkeylib.errors import first_problem
from monkeylib.progress import CountCallback

if TYPE_CHECKING:
    import pyarrow

SHARD_SIZE = 4000  # images
RECORDS = "records.jsonl"
SHARD_LIST = "manifest.json"
PARQUET = ".parquet"
OUTCOMES = ("records", "described", "undescribed", "failed", "pending")

_ROW_GROUP = 1000  # rows that are held in memory while a parquet file is written
_METADATA = b"monkeylib.shard"  # key of what a shard's parquet file tells of it
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
    path = resources.to_path(path)
    if path.suffix == PARQUET:
        _write_parquet(records, path, {}, durable)
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
    path = resources.to_path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There are no records at {path}: write them with captions.pipeline.caption_images first."
        )

    if path.suffix == PARQUET:
        yield from _read_parquet(path)
    else:
        yield from _read_jsonl(path)


def _read_jsonl(path: Path) -> Iterator[Record]:
    # Bytes that are no UTF-8 make a line that is no JSON.
    with path.open(encoding="utf-8", errors="backslashreplace") as file:
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
        raise ValueError(f"{location} is no record: {first_problem(error, 'the record')}.") from None


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


def records_table(records: Iterable[Record]) -> "pyarrow.Table":
    """Return the rows of a parquet file of records."""
    import pyarrow as pa

    # Settings differ between experts, so a column of structures would not fit them.
    rows = [record.model_dump(mode="json") for record in records]
    for row in rows:
        for item in row["provenance"]:
            item["settings"] = json.dumps(item["settings"], sort_keys=True)

    return pa.Table.from_pylist(rows, schema=_parquet_schema())


def _write_parquet(
    records: Iterable[Record], path: Path, metadata: Mapping[bytes, dict[str, Any]], durable: bool
) -> None:
    """Write a parquet file. The metadata are read when all records have been written."""
    from pyarrow import parquet

    rest = iter(records)
    with (
        resources.atomic_write(path, durable=durable) as temporary,
        parquet.ParquetWriter(temporary, _parquet_schema(), compression="zstd") as writer,
    ):
        while group := list(islice(rest, _ROW_GROUP)):
            writer.write_table(records_table(group))
        if metadata:
            texts = {name: json.dumps(value) for name, value in metadata.items()}
            writer.add_key_value_metadata(texts)


def _read_parquet(path: Path) -> Iterator[Record]:
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(1000):
            for row in batch.to_pylist():
                number += 1
                # Settings are JSON, see `records_table`.
                for item in row.get("provenance") or ():
                    item["settings"] = json.loads(item["settings"])
                yield _parse_record(row, f"Row {number} of {path}")
    except pa.ArrowException as error:
        raise ValueError(f"{path} cannot be read as parquet ({error}): write it anew") from error


# --- shards -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShardKey:
    """What a shard is known by, without its images.

    Fields:
        index: position among the shards of a run.
        digest: digest of its images and of the configuration.
        count: number of its images.
    """

    index: int
    digest: str
    count: int

    @property
    def name(self) -> str:
        """Name of the shard's file, without suffix. Names sort in the order of the images."""
        return f"{self.index:06d}-{self.digest[:16]}"


@dataclass(frozen=True)
class Shard:
    """Images that are committed together.

    Fields:
        key: what it is known by.
        images: its images, in order.
        sha256: digest of each image, empty where the file cannot be read.
    """

    key: ShardKey
    images: tuple[InputImage, ...]
    sha256: tuple[str, ...]


def plan_shards(
    images: Iterable[InputImage],
    provenance: Sequence[Provenance],
    size: int = SHARD_SIZE,
    progress: CountCallback | None = None,
) -> Iterator[Shard]:
    """Divide images into shards, in their order, holding one at a time. Reads files once for their checksums.

    Args:
        images: the images.
        provenance: provenance of all stages.
        size: number of images of a shard.
        progress: called with a number of images, and whether their checksums were known.

    Raises:
        ValueError: the size is below 1.
    """
    if size < 1:
        raise ValueError(f"A shard needs at least one image, got a size of {size}.")

    # A change of any of these gives other shards.
    configuration = [SCHEMA_VERSION, *(item.model_dump(mode="json") for item in provenance)]
    rest, index = iter(images), 0

    while members := tuple(islice(rest, size)):
        checksums = _checksums(members, progress)
        content = [
            (image.name, image.original_caption, checksum)
            for image, checksum in zip(members, checksums, strict=True)
        ]
        key = ShardKey(index, json_digest([configuration, content]), len(members))
        yield Shard(key, members, checksums)
        index += 1


def _checksums(images: Sequence[InputImage], progress: CountCallback | None) -> tuple[str, ...]:
    """Return the digest of each image, empty for one that cannot be read."""
    # Digests of files are remembered; only those of these images are held in memory.
    files = [image.image for image in images if isinstance(image.image, Path)]
    digests = FileDigests.in_cache().image_digests(files, progress)

    checksums = []
    for image in images:
        if isinstance(image.image, Path):
            digest = digests[image.image]
            checksums.append("" if digest == MISSING else digest)
        else:
            checksums.append(_checksum(image))
    if progress:
        progress(len(images) - len(files), False)
    return tuple(checksums)


def _checksum(image: InputImage) -> str:
    try:
        return image.sha256()
    except Exception:  # on images in memory, Pillow's plugins raise whatever they like
        return ""  # the failure is recorded when the image is opened


def commit_shard(folder: Path, shard: Shard, records: Iterable[Record]) -> None:
    """Write a shard's records as they come; they appear when all are there.

    Raises:
        ValueError: there is not one record for each image of the shard, in their order.
    """
    entry: dict[str, Any] = {"digest": shard.key.digest}
    checked = _count_records(_check_names(shard, records), entry)
    _write_parquet(checked, _parquet(folder, shard.key), {_METADATA: entry}, durable=True)


def _check_names(shard: Shard, records: Iterable[Record]) -> Iterator[Record]:
    """Yield the records of a shard.

    Raises:
        ValueError: they are not those of its images, in their order.
    """
    count = 0
    for image, record in zip(shard.images, records, strict=False):
        if record.name != image.name:
            raise ValueError(f"shard {shard.key.name} has a record of {record.name} instead of {image.name}")
        count += 1
        yield record

    if count != len(shard.images):
        raise ValueError(f"shard {shard.key.name} has {count} records for {len(shard.images)} images")


def _count_records(records: Iterable[Record], counts: dict[str, Any]) -> Iterator[Record]:
    """Yield records, and add to `counts` how many there are of each outcome."""
    counts |= dict.fromkeys(OUTCOMES, 0)
    for record in records:
        counts["records"] += 1
        if record.failures:
            counts["failed"] += 1
            counts["pending"] += any(failure.is_retried for failure in record.failures)
        else:
            counts["described" if record.detailed_caption else "undescribed"] += 1
        yield record


def read_entry(folder: Path, key: ShardKey) -> dict[str, int] | None:
    """Return how many records of each outcome a committed shard has, None if it is missing or damaged.

    Returns:
        `records` is the sum of `described` (every stage succeeded, and there is a caption), `undescribed`
        (every stage succeeded, but there is nothing to say) and `failed` (a stage failed). `pending` of
        the failed ones are tried again by the next run.
    """
    entry = _read_metadata(_parquet(folder, key))
    try:
        is_whole = entry["digest"] == key.digest and entry["records"] == key.count
        return {name: entry[name] for name in OUTCOMES} if is_whole else None
    except KeyError:
        return None


def _read_metadata(file: Path) -> dict[str, Any]:
    """Return what a shard's file tells of it; nothing if it is damaged, or no shard."""
    import pyarrow as pa
    from pyarrow import parquet

    with suppress(pa.ArrowException, OSError, ValueError, KeyError):
        # They stand at the end: a file that was cut off has none.
        metadata = json.loads((parquet.read_metadata(file).metadata or {})[_METADATA])
        return metadata if isinstance(metadata, dict) else {}
    return {}


def read_damaged(folder: Path, keys: Iterable[ShardKey], out: Path) -> set[str]:
    """Return the names of committed shards whose files have changed since they were listed."""
    try:
        listed = json.loads((out / SHARD_LIST).read_bytes())["shards"]
        digests = {entry["file"]: entry["sha256"] for entry in listed}
    except (OSError, ValueError, KeyError, TypeError):
        return set()

    files = {key.name: _parquet(folder, key) for key in keys}
    listed_files = {name: file for name, file in files.items() if _name_in(out, file) in digests}
    present = FileDigests.in_cache().digests(list(listed_files.values()))
    return {name for name, file in listed_files.items() if present[file] != digests[_name_in(out, file)]}


def _name_in(out: Path, file: Path) -> str:
    return file.relative_to(out).as_posix()


def committed_images(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield name, SHA-256 and original caption of each image in a folder of shards, from any of its runs.

    The SHA-256 is empty where the image could not be read. Damaged files, which hold no results, are left
    out.
    """
    import pyarrow as pa
    from pyarrow import parquet

    columns = ["name", "sha256", "original_caption"]
    for file in sorted(folder.glob(f"*{PARQUET}")):
        if not _SHARD_FILE.fullmatch(file.name) or not _read_metadata(file):
            continue
        try:
            for batch in parquet.ParquetFile(file).iter_batches(_ROW_GROUP, columns=columns):
                for row in batch.to_pylist():
                    yield row["name"], row["sha256"] or "", row["original_caption"] or ""
        except (pa.ArrowException, OSError):
            continue


def gather_shards(folder: Path, keys: Sequence[ShardKey], out: Path) -> dict[str, Any]:
    """Join committed shards, in their order, to `out/records.jsonl`, and list them in `out/manifest.json`.

    Nothing is written if both files are there and list these shards.

    Returns:
        The manifest: `schema_version`, the numbers of `read_entry`, the `bytes` of records.jsonl, and the
        `shards`.

    Raises:
        ValueError: a shard is not committed.
    """
    files = [_parquet(folder, key) for key in keys]
    digests = FileDigests.in_cache().digests(files)

    listed = []
    for key, file in zip(keys, files, strict=True):
        entry = read_entry(folder, key)
        if entry is None:
            raise ValueError(f"shard {key.name} in {folder} is incomplete: run the same call again")
        listed.append({"file": _name_in(out, file), "sha256": digests[file], **entry})

    manifest: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    for name in OUTCOMES:
        manifest[name] = sum(entry[name] for entry in listed)

    if gathered := _read_gathered(out, manifest, listed):
        return gathered

    # Records are streamed from shard to file, never all in memory.
    records = write_records(_records(files), out / RECORDS, durable=True)
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


def failed_records(out: Path) -> Iterator[Record]:
    """Yield the records with failures of a finished run; shards without any are not read."""
    manifest = json.loads((out / SHARD_LIST).read_bytes())
    for entry in manifest["shards"]:
        if entry["failed"]:
            yield from (record for record in read_records(out / entry["file"]) if record.failures)


def remove_other_shards(folder: Path, names: Collection[str]) -> None:
    """Remove the shards of earlier runs, over other images or with other settings, from a folder of shards.

    The folder then holds every image once. Only files with the name of a shard are removed, and the entries
    that earlier versions wrote beside them.

    Args:
        folder: the folder.
        names: names of the shards that stay.
    """
    for path in sorted(folder.iterdir()):
        match = _SHARD_FILE.fullmatch(path.name)
        is_shard = match and match[1] in names and path.suffix == PARQUET
        if match and not is_shard and path.is_file():
            path.unlink()


def _records(files: Iterable[Path]) -> Iterator[Record]:
    for file in files:
        yield from read_records(file)


def _parquet(folder: Path, key: ShardKey) -> Path:
    return folder / f"{key.name}{PARQUET}"
