"""Records in tables: parquet, Arrow, CSV and TSV files, saved folders of Hugging Face's `datasets`, hub ids.

Files are read as their writers write them, pandas and polars among them: texts of any type, categories, and
images as paths, as bytes, or as a struct of both. In CSV and TSV all values are texts. A table is mapped into
memory: parquet, CSV and TSV files are first converted to Arrow, in data/cache/tables.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monkeylib.data.file_cache import cached_file, writable_folder
from monkeylib.data.json_rows import text_encoding
from monkeylib.data.readers.base import find_files, is_pattern, takes_question
from monkeylib.data.readers.forms import misnamed_image_field, tell_form
from monkeylib.data.schema import DatasetEntry
from monkeylib.errors import first_line

if TYPE_CHECKING:
    import pyarrow as pa

TABLE_SUFFIXES = (".parquet", ".arrow", ".feather", ".csv", ".tsv")
_FILE_SUFFIXES = (*TABLE_SUFFIXES, ".json", ".jsonl")  # of what is no id of a hub
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_BATCH_BYTES = 2**26  # of a converted table, held in memory at once
_MAX_BATCH = 2**16  # rows
_CSV_BLOCK, _MAX_CSV_BLOCK = 2**20, 2**28  # bytes
_CHECKED_ROWS = 20  # whose columns are told by their values
_SEPARATORS = ",\t;|"


class TableRecords:
    """Rows of a table: their texts, and for each image a function that opens it.

    Raises:
        ModuleNotFoundError: the package pyarrow, or for saved folders and hub ids datasets, is not installed.
        FileNotFoundError: there is nothing at the path, and no hub dataset has that id.
        ValueError: a file is no table, or the dataset lacks the split or a column.
    """

    def __init__(self, entry: DatasetEntry, root: Path) -> None:
        # Files of a hub dataset are not known; its revision stands for them in the fingerprint.
        self.files = _local_files(entry, root) or []
        self._paths = ", ".join(entry.paths)

        batches, self._class_names = _load(entry, root)
        self._batches = [batch for batch in batches if batch.num_rows]
        self._first_rows = np.cumsum([0, *(batch.num_rows for batch in self._batches)])

        self._images: set[str] = set()
        if self._batches:
            schema = self._batches[0].schema
            self._images = {field.name for field in schema if _holds_images(field.type)}

    def __len__(self) -> int:
        return int(self._first_rows[-1])

    def __getitem__(self, number: int) -> dict[str, Any]:
        chunk = int(np.searchsorted(self._first_rows, number, side="right")) - 1
        batch, row = self._batches[chunk], number - int(self._first_rows[chunk])

        fields: dict[str, Any] = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name in self._images:
                fields[name] = _images_of(column, row)
                continue

            value = _value_at(column, row)
            # A class is stored as its number.
            if name in self._class_names and isinstance(value, int):
                value = self._class_names[name][value]
            fields[name] = value

        return fields

    def location(self, number: int) -> str:
        """Return the dataset's path and the number of the row."""
        return f"{self._paths}, row {number + 1}"

    def check_columns(self, entry: DatasetEntry) -> None:
        """Check that the columns of questions are there, in a table that holds nothing else.

        Raises:
            ValueError: one isn't.
        """
        if not self._batches or tell_form(self[0]) not in (None, "evaluation"):
            return

        names = self._batches[0].schema.names
        columns = entry.columns
        required = [columns.image] if entry.image_limits[0] else []
        if takes_question(entry.prompt):
            required.append(columns.question)
        required.append(columns.answer)
        if columns.id:
            required.append(columns.id)

        # Questions need no image, but a table that has this column keeps it, and one that is named is there.
        misnamed = self._misnamed_images(entry)
        has_images = columns.image in names or misnamed or "image" in columns.model_fields_set
        if has_images and columns.image not in required:
            required.insert(0, columns.image)

        # Names that are read where the usual ones are missing.
        others = {"image": "images", "answer": "answers"}
        missing = [column for column in required if column not in names and others.get(column) not in names]
        if missing:
            field_of_name = {name: field for field, name in columns}
            # One in other letters is meant, if YAML needs no quotes around it.
            likely = {name.lower(): name for name in names if re.fullmatch(r"\w+", name)}
            if misnamed in likely.values():
                likely[columns.image.lower()] = misnamed
            given = ", ".join(
                f"{field_of_name[column]}: {likely.get(column.lower(), 'NAME')}" for column in missing
            )
            example = f"{{name: {entry.name}, path: {self._paths}, columns: {{{given}}}}}"
            raise ValueError(
                f"the dataset {entry.name} has no column {' and no column '.join(missing)}: expected the "
                f"columns {', '.join(required)}, got {', '.join(names)}; rename yours, or name them in a "
                f"mixture, a YAML file such as `sets: [{example}]`"
            )

    def _misnamed_images(self, entry: DatasetEntry) -> str | None:
        """Return the column of images that no question would have, None if there is none."""
        names = self._batches[0].schema.names
        if entry.columns.image in names or "images" in names:
            return None
        rows = (self[number] for number in range(min(_CHECKED_ROWS, len(self))))
        fields = (misnamed_image_field(row, entry, "evaluation") for row in rows)
        return next((name for name in fields if name is not None), None)


@dataclass(frozen=True)
class TableImage:
    """An image of a table: plain bytes, or a struct of bytes and path.

    Attributes:
        column: the column, or the list in a cell of it.
        row: the image's place there.
    """

    column: Any
    row: int

    def __call__(self) -> bytes:
        """Return the image's bytes."""
        value = self.column[self.row].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise ValueError(f"the column of images holds {type(content).__name__}, expected bytes or a path")
        return content

    def content(self) -> bytes:
        """Return what identifies the image: its bytes."""
        return self()


def _value_at(column: Any, row: int) -> Any:
    """Return the value in a cell; of a float of 32 or 16 bits the number that was meant, 1.86."""
    import pyarrow as pa

    value = column[row].as_py()
    if value is not None and (pa.types.is_float32(column.type) or pa.types.is_float16(column.type)):
        return float(str(column.type.to_pandas_dtype()(value)))
    return value


def _images_of(column: Any, row: int) -> Any:
    """Return the image or images in a cell without reading their bytes; paths where there are no bytes."""
    import pyarrow as pa

    cell = column[row]
    if not cell.is_valid:
        return None
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return [_image_at(cell.values, index) for index in range(len(cell))]
    return _image_at(column, row)


def _image_at(array: Any, row: int) -> Any:
    import pyarrow as pa

    cell = array[row]
    if not cell.is_valid:
        return None
    if pa.types.is_struct(array.type) and not cell["bytes"].is_valid:
        return cell["path"].as_py() if "path" in cell else None
    return TableImage(array, row)


# --- types


def _holds_images(type: pa.DataType) -> bool:
    """Return whether a column holds encoded images: bytes, or structs or lists of them."""
    import pyarrow as pa

    if pa.types.is_list(type) or pa.types.is_large_list(type):
        return _holds_images(type.value_type)
    if pa.types.is_struct(type):
        return type.get_field_index("bytes") >= 0 and _holds_images(type.field("bytes").type)
    return pa.types.is_binary(type) or pa.types.is_large_binary(type)


def _plain_type(type: pa.DataType) -> pa.DataType:
    """Return the type that a column is converted to: categories and views become texts and bytes."""
    import pyarrow as pa

    if pa.types.is_dictionary(type):
        return _plain_type(type.value_type)
    if pa.types.is_string_view(type):
        return pa.large_string()
    if pa.types.is_binary_view(type):
        return pa.large_binary()
    if pa.types.is_list(type):
        return pa.list_(_plain_type(type.value_type))
    if pa.types.is_large_list(type):
        return pa.large_list(_plain_type(type.value_type))
    if pa.types.is_struct(type):
        return pa.struct([field.with_type(_plain_type(field.type)) for field in type])
    return type


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([field.with_type(_plain_type(field.type)) for field in schema], schema.metadata)


def _class_names(schema: pa.Schema) -> Mapping[str, list[str]]:
    """Return the names of the classes in columns that `datasets` stores as numbers."""
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = metadata.get("info", {}).get("features", {})
        return {
            name: feature["names"]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, AttributeError, KeyError):
        return {}


# --- files


def _local_files(entry: DatasetEntry, root: Path) -> list[Path] | None:
    """Return the files of a dataset on disk, None for a hub id."""
    path = root / entry.paths[0]
    # A folder counts with all of its files.
    if len(entry.paths) == 1 and path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())

    is_hub_id = len(entry.paths) == 1 and _HUB_ID.fullmatch(entry.paths[0]) and not path.exists()
    if is_hub_id and path.suffix.lower() not in _FILE_SUFFIXES and not is_pattern(entry.paths[0]):
        return None

    return find_files(entry, root)


def _load(entry: DatasetEntry, root: Path) -> tuple[list[pa.RecordBatch], Mapping[str, list[str]]]:
    """Return the rows of a dataset in batches, mapped from the disk, and the names of its classes."""
    path = root / entry.paths[0]
    files = _local_files(entry, root)
    if files is None or path.is_dir():
        return _from_datasets(entry, path)

    batches: list[pa.RecordBatch] = []
    for file in files:
        of_file = list(_map_arrow(file))
        if batches and of_file and of_file[0].schema.names != batches[0].schema.names:
            raise ValueError(
                f"{file} has the columns {', '.join(of_file[0].schema.names)}, the files before it have "
                f"{', '.join(batches[0].schema.names)}: make them a dataset each"
            )
        batches += of_file
    return batches, _class_names(batches[0].schema) if batches else {}


def _from_datasets(entry: DatasetEntry, path: Path) -> tuple[list[pa.RecordBatch], Mapping[str, list[str]]]:
    """Return the rows of a saved folder, a folder of files, or a dataset of the hub."""
    import datasets

    table = _load_dataset(entry, path)

    # A selection of rows is an index over the others.
    if table._indices is not None:
        table = table.flatten_indices(cache_file_name=None)

    class_names = {
        name: feature.names
        for name, feature in table.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    arrow = table.data.table
    plain = _plain_schema(arrow.schema)
    if plain != arrow.schema:
        arrow = arrow.cast(plain)
    return arrow.to_batches(), class_names


def _load_dataset(entry: DatasetEntry, path: Path) -> Any:
    import datasets

    cache = str(writable_folder("datasets"))
    if not path.is_dir():
        try:
            return datasets.load_dataset(
                entry.paths[0], split=entry.split, revision=entry.revision, cache_dir=cache
            )
        except (FileNotFoundError, ConnectionError) as error:
            raise FileNotFoundError(
                f"the dataset {entry.name} has nothing at {path}, and no hub has a dataset {entry.paths[0]}: "
                "check its path in the mixture"
            ) from error

    # Several splits, or one.
    if is_saved_folder(path):
        saved = datasets.load_from_disk(str(path))
        if not isinstance(saved, datasets.DatasetDict):
            return saved
        if entry.split not in saved:
            raise ValueError(
                f"the dataset {entry.name} has no split {entry.split}: it has {', '.join(saved)}"
            )

        return saved[entry.split]

    # A folder of parquet or other files, which the library recognises itself.
    try:
        return datasets.load_dataset(str(path), split=entry.split, cache_dir=cache)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"the dataset {entry.name} has no table in the folder {path} ({first_line(error)}): name a file"
        ) from error


def is_saved_folder(path: Path) -> bool:
    """Return whether a folder was written by `save_to_disk` of `datasets`."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def has_images(file: Path) -> bool:
    """Return whether a parquet or Arrow file has a column of encoded images; only its head is read."""
    import pyarrow as pa

    try:
        if table_kind(file) == "parquet":
            from pyarrow import parquet

            schema = parquet.read_schema(file)
        elif table_kind(file) == "Arrow":
            schema, _ = _read_arrow(file)
        else:
            return False
    except (pa.ArrowException, OSError):
        return False
    return any(_holds_images(field.type) for field in schema)


def _map_arrow(file: Path) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a file, mapped into memory.

    Raises:
        ValueError: the file is no table.
    """
    import pyarrow as pa

    try:
        converted = cached_file(file, "tables", ".arrow", partial(_convert, file))
    except OSError as error:
        # pyarrow's, of damaged content; the system's have a number.
        if error.errno is not None:
            raise
        raise ValueError(
            f"{file} is a damaged {table_kind(file)} file ({first_line(error)}): write it anew"
        ) from error
    except (pa.ArrowException, UnicodeError, csv.Error) as error:
        encoding = " in UTF-8" if isinstance(error, UnicodeError) else ""
        raise ValueError(
            f"{file} is no {table_kind(file)} file that can be read ({first_line(error)}): write it anew"
            f"{encoding}"
        ) from error

    reader = pa.ipc.open_file(pa.memory_map(str(converted)))
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _convert(file: Path, converted: Path) -> None:
    """Write a table as an Arrow file.

    Raises:
        pyarrow.ArrowException: it is damaged.
        ValueError: a row of a CSV file is too large.
    """
    import pyarrow as pa

    kind = table_kind(file)
    if kind != "CSV":
        _write_arrow(*_READERS[kind](file), converted)
        return

    # A row has to lie within a block, so blocks grow where one is larger: it may hold an image, or a book.
    block_size = _CSV_BLOCK
    while True:
        try:
            _write_arrow(*_read_csv(file, block_size), converted)
            return
        except pa.ArrowInvalid as error:
            if "block" not in str(error) or block_size >= file.stat().st_size:
                raise
            if block_size >= _MAX_CSV_BLOCK:
                raise ValueError(
                    f"{file} has a row of more than {_MAX_CSV_BLOCK // 2**20} MiB, or open quotes: "
                    "name images by their paths, or write the table as parquet"
                ) from error
        block_size *= 16


def _write_arrow(schema: pa.Schema, batches: Iterator[pa.RecordBatch], converted: Path) -> None:
    import pyarrow as pa

    plain = _plain_schema(schema)
    with pa.ipc.new_file(str(converted), plain) as writer:
        for batch in batches:
            columns = [
                _to_plain(column, field.type) for column, field in zip(batch.columns, plain, strict=True)
            ]
            writer.write_table(pa.table(columns, schema=plain))


def _to_plain(column: pa.Array, plain_type: pa.DataType) -> pa.Array:
    """Return a column as its plain type; one that has it stays, as pyarrow can't cast structs with nulls."""
    return column if column.type == plain_type else _decode_views(column).cast(plain_type)


def _decode_views(column: pa.Array) -> pa.Array:
    """Return categories whose names are views, as polars writes them, with names that pyarrow can look up."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type) or not pa.types.is_string_view(column.type.value_type):
        return column
    return pa.DictionaryArray.from_arrays(column.indices, column.dictionary.cast(pa.large_string()))


def table_kind(file: Path) -> str:
    """Return the kind of a table's file: parquet, Arrow or CSV, by its first bytes."""
    with open(file, "rb") as content:
        start = content.read(6)
    if start.startswith(b"PAR1"):
        return "parquet"
    # Files begin with a magic word, streams with a marker.
    return "Arrow" if start == b"ARROW1" or start.startswith(b"\xff\xff\xff\xff") else "CSV"


def _read_parquet(file: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    from pyarrow import parquet

    table = parquet.ParquetFile(file, memory_map=True)
    metadata = table.metadata

    # Rows with images are large: so many that a batch fits into memory.
    size = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    row_size = max(1, size // max(1, metadata.num_rows))
    batch_size = max(1, min(_MAX_BATCH, _BATCH_BYTES // row_size))
    return table.schema_arrow, table.iter_batches(batch_size=batch_size)


def _read_arrow(file: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    import pyarrow as pa

    source = pa.memory_map(str(file))
    try:
        reader = pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        stream = pa.ipc.open_stream(source)
        return stream.schema, iter(stream)
    return reader.schema, (reader.get_batch(number) for number in range(reader.num_record_batches))


def _read_csv(file: Path, block_size: int) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Read a table of texts, separated by the character that separates the names of its columns.

    Args:
        file: the table.
        block_size: bytes that are parsed at once, within which a row must lie.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    encoding = text_encoding(file)
    with open(file, encoding=encoding, newline="") as text:
        header = text.readline()
    separator = max(_SEPARATORS, key=header.count)
    names = next(csv.reader([header], delimiter=separator), [])
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{file} has {names.count(name)} columns called {name!r}: name each differently")

    reader = arrow_csv.open_csv(
        file,
        arrow_csv.ReadOptions(
            encoding="utf8" if encoding.startswith("utf-8") else encoding, block_size=block_size
        ),
        # A text in quotes may have several lines.
        arrow_csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        # "NA" and "3.10" are what they are.
        arrow_csv.ConvertOptions(
            column_types={name.strip("\ufeff"): pa.string() for name in names}, strings_can_be_null=False
        ),
    )
    return reader.schema, iter(reader)


_READERS = {"parquet": _read_parquet, "Arrow": _read_arrow}
