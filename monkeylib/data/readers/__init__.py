"""Readers of training and evaluation data: JSON files, tables and WebDataset shards, read into `Record`s.

A dataset is a file in one of these, told by its content, with records in one of the forms of
`monkeylib.data.readers.forms`. The formats of a mixture are the forms, and for a table or shards of any form
`datasets` and `webdataset`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from monkeylib import resources
from monkeylib.data.json_rows import read_json_or_jsonl, text_encoding
from monkeylib.data.readers import forms
from monkeylib.data.readers.base import DatasetRecords, RawRecords, find_files
from monkeylib.data.readers.json_files import JsonRecords
from monkeylib.data.readers.tables import TABLE_SUFFIXES, TableRecords, is_saved_folder, table_kind
from monkeylib.data.readers.webdataset import ShardRecords
from monkeylib.data.records import BadRecord
from monkeylib.data.schema import DatasetEntry
from monkeylib.errors import beginning

__all__ = ["Container", "DatasetRecords", "describe", "open_dataset", "read_rows", "tell_container"]

Container = Literal["json", "table", "shards"]

_TAR_MAGIC = (257, b"ustar")  # position and content
# First bytes of gzip, zip, bzip2, xz and zstd.
_COMPRESSED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
# Names for people.
_CONTAINERS = {"json": "JSON", "table": "a table", "shards": "WebDataset shards"}
_FORMS = {
    "conversations": "conversations of the released data or of Qwen-VL",
    "llava": "conversations of LLaVA or ShareGPT",
    "messages": "messages of OpenAI or TRL",
    "cauldron": "texts of the_cauldron or FineVision",
    "evaluation": "questions and answers",
    "records": "records of `monkeylib caption`",
}
_TOLD_RECORDS = 20  # that are looked at for their form


def open_dataset(entry: DatasetEntry, root: str | Path) -> DatasetRecords:
    """Index a dataset; errors of single records are raised when they are read.

    Args:
        entry: the dataset. Without a format, it is told from its first records.
        root: folder that relative paths start from.

    Raises:
        FileNotFoundError: there is nothing at a path.
        ModuleNotFoundError: a package that reads tables is not installed.
        ValueError: a file is empty, no JSON, table or tar file, its records are of no form, or their images
            are in a field that isn't read.
    """
    root = resources.to_path(root)
    container = tell_container(entry, root)
    raw: RawRecords
    if container == "table":
        raw = TableRecords(entry, root)
        raw.check_columns(entry)
    elif container == "shards":
        raw = ShardRecords(find_files(entry, root))
    else:
        raw = JsonRecords(find_files(entry, root))

    form = tell_form(entry, raw)
    if entry.format is None:
        entry = _with_format(entry, form, raw)

    left_out = forms.reason_left_out if form == "records" else None
    records = DatasetRecords(entry, root, raw, forms.parse, left_out)
    _check_image_fields(records, form)
    return records


def read_rows(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield each row of a file of JSON or of a table, whatever its fields, with its place.

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: pyarrow, which reads tables, is not installed.
        ValueError: it is neither JSON nor a table; the message names the line.
    """
    path = resources.to_path(path)
    entry = DatasetEntry(name=path.stem or path.name, path=path.name)
    container = tell_container(entry, path.parent)
    if container == "shards":
        raise ValueError(f"{path} is a tar file: expected JSON, JSON lines, CSV, TSV or parquet")
    if container == "json":
        yield from read_json_or_jsonl(path)
        return

    table = TableRecords(entry, path.parent)
    for number in range(len(table)):
        yield f"row {number + 1} of {path}", table[number]


def describe(records: DatasetRecords) -> str:
    """Return what a dataset was taken for: "JSON, messages of OpenAI or TRL"."""
    kinds = {JsonRecords: "json", TableRecords: "table", ShardRecords: "shards"}
    form = tell_form(records.entry, records.raw)
    told = tell_form(records.entry.model_copy(update={"format": None}), records.raw, form)
    # Conversations are the released ones, or LLaVA's, as their format says.
    if {form, told} != {"conversations", "llava"}:
        form = told
    return f"{_CONTAINERS[kinds[type(records.raw)]]}, {_FORMS[form]}"


def tell_container(entry: DatasetEntry, root: Path) -> Container:
    """Return in what kind of file a dataset lies, by the content of its first one."""
    path = root / entry.paths[0]
    # A folder, or an id of the hub.
    if entry.format in (None, "datasets") and (path.is_dir() or entry.format and not path.exists()):
        return "table"
    if is_saved_folder(path):
        return "table"

    file = find_files(entry, root)[0]
    with open(file, "rb") as content:
        start = content.read(512)
    is_tar = start[_TAR_MAGIC[0] :].startswith(_TAR_MAGIC[1]) or file.suffix.lower() == ".tar"
    if is_tar or entry.format == "webdataset":
        return "shards"
    if start.startswith(_COMPRESSED):
        raise ValueError(f"{file} is compressed: unpack it")
    if table_kind(file) != "CSV":
        return "table"

    # A text: CSV has no brackets in its first line.
    is_json = start.decode(text_encoding(file), errors="replace").lstrip("\ufeff \t\r\n")[:1] in ("[", "{")
    if is_json or (file.suffix.lower() not in TABLE_SUFFIXES and entry.format != "datasets"):
        return "json"
    return "table"


def tell_form(entry: DatasetEntry, raw: RawRecords, otherwise: str | None = None) -> str:
    """Return the form of a dataset's records: the one that its format names, or that of the first ones.

    Args:
        entry: the dataset.
        raw: its records.
        otherwise: the form of records whose fields tell none.

    Raises:
        ValueError: no format is given, and the records are of no form.
    """
    if entry.format == "sharegpt":
        return "llava"
    if entry.format in forms.PARSERS:
        return entry.format

    first_value, problem = None, ""
    for number in range(min(_TOLD_RECORDS, len(raw))):
        try:
            value = raw[number]
        except BadRecord as error:
            problem = problem or f"{raw.location(number)}: {error}"
            continue
        if form := forms.tell_form(value):
            return form
        if value is None:
            problem = problem or f"{raw.location(number)}: expected an object with fields, got null"
        first_value = value if first_value is None else first_value

    if otherwise is not None:
        return otherwise
    # Columns of any name hold questions, where the dataset names them or its format is that of a container.
    if entry.format or entry.columns.model_fields_set or not len(raw):
        return "evaluation"

    if first_value is None:
        raise ValueError(f"no record of {', '.join(entry.paths)} can be read, such as {problem}")
    fields = ", ".join(map(str, first_value)) if isinstance(first_value, dict) else repr(first_value)
    raise ValueError(
        f"the records of {', '.join(entry.paths)} are of no form that can be told: they have "
        f"{beginning(fields, 80)}; name their fields image, question and answer, or state their `format` "
        "and the names of their `columns` in a mixture (see docs/own-data.md)"
    )


def _check_image_fields(records: DatasetRecords, form: str) -> None:
    """Check that images aren't in a field that isn't read, where the first records have none.

    Raises:
        ValueError: they are.
    """
    misnamed = None
    for number in range(min(_TOLD_RECORDS, len(records))):
        with suppress(BadRecord):
            misnamed = misnamed or forms.misnamed_image_field(records.fields(number), records.entry, form)
            if records[number].images:
                return

    if misnamed is not None:
        sentence = forms.misnamed_sentence(misnamed, records.entry, form)
        raise ValueError(f"the dataset {records.name} ({', '.join(records.entry.paths)}): {sentence}")


def _with_format(entry: DatasetEntry, form: str, raw: RawRecords) -> DatasetEntry:
    """Return an entry with the format that was told, and still with any number of images."""
    minimum, maximum = entry.image_limits
    fields = {"format": form, "min_images": minimum, "max_images": maximum}

    # Texts about images, without questions, are captions.
    if "prompt" not in entry.model_fields_set:
        if form == "records":
            fields["prompt"] = "detailed_caption"
        elif form == "evaluation" and entry.columns.question not in (_first_value(raw) or ()):
            fields["prompt"] = "caption"

    return entry.model_copy(update=fields)


def _first_value(raw: RawRecords) -> Any:
    """Return the first record that can be read, None if none of the first ones can."""
    for number in range(min(_TOLD_RECORDS, len(raw))):
        with suppress(BadRecord):
            return raw[number]
    return None
