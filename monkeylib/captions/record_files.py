"""Files of records: JSONL with a record per line, and parquet with a record per row. Both hold the same.

In parquet, boxes are lists of four numbers and corners lists of four lists of two. The settings of an expert
are JSON, since each expert has others. `datasets` and pandas read these files as they are.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from monkeylib import resources
from monkeylib.captions.annotations import SCHEMA_VERSION, Record
from monkeylib.errors import first_problem

if TYPE_CHECKING:
    import pyarrow

PARQUET = ".parquet"


def write_records(records: Iterable[Record], path: Path | str, *, durable: bool = False) -> Path:
    """Write records atomically, as parquet or JSONL by the suffix of `path`. Return the path.

    The same records give the same bytes.

    Args:
        records: the records.
        path: ends in .parquet for parquet; anything else is JSONL.
        durable: see `resources.atomic_write`.
    """
    path = Path(path)
    with resources.atomic_write(path, durable=durable) as temporary:
        if path.suffix == PARQUET:
            _write_parquet(records, temporary)
        else:
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
        "failures": {"stage": text, "error": text},
    }  # fmt: skip

    words = pa.list_(text)
    columns = {
        "schema_version": pa.int32(), "name": text, "sha256": text, "width": pa.int32(), "height": pa.int32(),
        "status": text, "original_caption": text, "detailed_caption": text,
        "check": pa.struct({"grounding": number, "sentences": pa.int32(), "unsupported": words,
                            "problems": words}),
    }  # fmt: skip

    return pa.schema({**columns, **{name: pa.list_(pa.struct(fields)) for name, fields in lists.items()}})


def _write_parquet(records: Iterable[Record], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    # Settings differ between experts, so a column of structures would not fit them.
    rows = [record.model_dump(mode="json") for record in records]
    for row in rows:
        for item in row["provenance"]:
            item["settings"] = json.dumps(item["settings"], sort_keys=True)

    table = pa.Table.from_pylist(rows, schema=_parquet_schema())
    parquet.write_table(table, path, compression="zstd")


def _read_parquet(path: Path) -> Iterator[Record]:
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(1000):
            for row in batch.to_pylist():
                number += 1
                for item in row.get("provenance") or ():
                    item["settings"] = json.loads(item["settings"])
                yield _parse_record(row, f"Row {number} of {path}")
    except pa.ArrowException as error:
        raise ValueError(f"{path} cannot be read as parquet ({error}): write it anew") from error
