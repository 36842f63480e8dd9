"""Files of records: JSONL, a record per line, and parquet, a record per row. Both hold the same.

In parquet, boxes are lists of four numbers, corners lists of four lists of two, and the settings of an expert
JSON, since each has others; `datasets` and pandas read it as it is.
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


def write_records(records: Iterable[Record], path: Path | str) -> Path:
    """Write records in one move, as parquet if `path` ends so, else as JSONL.

    The same records give the same bytes.
    """
    path = Path(path)
    with resources.atomic_write(path) as temporary:
        if path.suffix == PARQUET:
            _write_parquet(records, temporary)
        else:
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines(record.model_dump_json() + "\n" for record in records)
    return path


def read_records(path: Path | str) -> Iterator[Record]:
    """The records of a JSONL or parquet file, in its order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no record, or was written by another version of the schema.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"There are no records at {path}: write them with captions.pipeline.caption_images first."
        )
    if Path(path).suffix == PARQUET:
        yield from _read_parquet(Path(path))
        return
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            where = f"Line {number} of {path}"
            try:
                fields = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where} is no record: {error}.") from error
            yield _record(fields, where)


def _record(fields: Any, where: str) -> Record:
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if version is not None and version != SCHEMA_VERSION:
        raise ValueError(
            f"{where} has schema version {version}, this code reads {SCHEMA_VERSION}: annotate anew."
        )
    try:
        return Record.model_validate(fields)
    except ValidationError as error:
        raise ValueError(f"{where} is no record: {first_problem(error, 'the record')}.") from error


def _schema() -> "pyarrow.Schema":
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    box = pa.list_(number)
    mask = pa.struct({"size": pa.list_(pa.int32()), "counts": text})
    tables = {
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
    single = {
        "schema_version": pa.int32(), "name": text, "sha256": text, "width": pa.int32(), "height": pa.int32(),
        "status": text, "original_caption": text, "detailed_caption": text,
        "check": pa.struct({"grounding": number, "sentences": pa.int32(), "unsupported": words,
                            "problems": words}),
    }  # fmt: skip
    return pa.schema({**single, **{name: pa.list_(pa.struct(fields)) for name, fields in tables.items()}})


def _write_parquet(records: Iterable[Record], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = [record.model_dump(mode="json") for record in records]
    for row in rows:
        for item in row["provenance"]:
            item["settings"] = json.dumps(item["settings"], sort_keys=True)
    parquet.write_table(pa.Table.from_pylist(rows, schema=_schema()), path, compression="zstd")


def _read_parquet(path: Path) -> Iterator[Record]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        batches = parquet.ParquetFile(path).iter_batches(1000)
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            where = f"Row {number} of {path}"
            for item in row.get("provenance") or ():
                item["settings"] = json.loads(item["settings"])
            yield _record(row, where)
    except pa.ArrowException as error:
        raise ValueError(f"{path} cannot be read as parquet ({error}): write it anew") from error
