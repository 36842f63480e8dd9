"""Tables read with Hugging Face's `datasets`: saved folders, parquet and other files, hub ids.

The dataset's `columns` name the image (an image column, bytes, or a path), the question, the answer (a text,
or a list of texts of which the most frequent one is used) and the id. Conversions and downloads are cached in
data/cache/datasets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monkeylib import resources
from monkeylib.data.readers.base import DatasetRecords, RawRecord, takes_question
from monkeylib.data.records import Record
from monkeylib.data.schema import DatasetEntry

_FILES = {".parquet": "parquet", ".arrow": "arrow", ".json": "json", ".jsonl": "json", ".csv": "csv"}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def read_table(entry: DatasetEntry, root: Path) -> DatasetRecords:
    """Read a split of a dataset.

    Raises:
        ModuleNotFoundError: the package datasets is not installed.
        FileNotFoundError: there is nothing at the path, and no hub dataset has that id.
        ValueError: the dataset lacks the split or a column.
    """
    return DatasetRecords(entry, root, TableRecords(entry, root), _parse)


def _parse(raw: RawRecord) -> Record:
    """Parse the columns of a row; its image is read when it is opened."""
    columns = raw.entry.columns

    # Captions need no question, so the column may be missing.
    question = raw.field(columns.question) if takes_question(raw.entry.prompt) else ""
    prompt = raw.prompt(question, columns.question)
    answer = raw.answer(raw.field(columns.answer), columns.answer)

    image = raw.field(columns.image)

    if image is None:
        raise raw.error(columns.image, "an image", image)
    images = raw.image_paths(image, columns.image) if isinstance(image, str | list) else [image]
    return raw.to_record(images, [(prompt, answer)], raw.value.get(columns.id))


class TableRecords:
    """Rows of a table: their texts, and for each image a function that opens it."""

    def __init__(self, entry: DatasetEntry, root: Path) -> None:
        columns = entry.columns
        table = _load_table(entry, root)

        required = [columns.image, columns.answer]
        if columns.id:
            required.append(columns.id)
        if takes_question(entry.prompt):
            required.append(columns.question)

        for column in required:
            if column not in table.column_names:
                raise ValueError(
                    f"the dataset {entry.name} has no column {column}: `columns` must name some of "
                    f"{', '.join(table.column_names)}"
                )

        # Files of a hub dataset are not known; its revision stands for them in the digest.
        self.files = [Path(path) for path in _local_files(entry, root) or []]
        self._columns = columns
        self._paths = ", ".join(entry.paths)

        feature = table.features[columns.image]

        # A column of paths is text; images and bytes are only opened on demand.
        self._images_are_paths = getattr(feature, "dtype", None) == "string"
        if type(feature).__name__ == "Image":  # give bytes: Record.open_images decodes them
            table = table.cast_column(columns.image, type(feature)(decode=False))

        # Without the column of images, reading a row's texts does not read its image.
        self._images = table.select_columns([columns.image])
        texts = [column for column in required if column != columns.image or self._images_are_paths]
        self._texts = table.select_columns(texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self._texts[number]
        if self._images_are_paths:
            return row
        return row | {self._columns.image: TableImage(self._images, number)}

    def location(self, number: int) -> str:
        """Return the dataset's path and the number of the row."""
        return f"{self._paths}, row {number + 1}"

    def ids(self) -> Iterable[Any]:
        """Return the column of ids, if the dataset names one."""
        return self._texts[self._columns.id] if self._columns.id else ()


@dataclass(frozen=True)
class TableImage:
    """Opens the image of a row: plain bytes, or a struct of bytes and path."""

    table: Any
    number: int

    def __call__(self) -> bytes | str:
        """Return the image's bytes or its path."""
        value = self._value()
        if not isinstance(value, bytes | str):
            raise ValueError(f"the column of images holds {type(value).__name__}, expected bytes or a path")
        return value

    def content(self) -> bytes:
        """Return what identifies the image: its bytes, or its path."""
        value = self._value()
        return value if isinstance(value, bytes) else repr(value).encode()

    def _value(self) -> Any:
        # A row of the table that has only this column.
        (value,) = self.table[self.number].values()
        if not isinstance(value, dict):
            return value
        if value.get("bytes") is not None:
            return value["bytes"]
        return value.get("path") or None


def _local_files(entry: DatasetEntry, root: Path) -> list[str] | None:
    """Return the files of a dataset on disk, None for a hub id."""
    paths = [root / path for path in entry.paths]
    if all(path.is_file() for path in paths):
        return [str(path) for path in paths]

    # A folder counts with all of its files.
    if len(paths) == 1 and paths[0].is_dir():
        return sorted(str(file) for file in paths[0].rglob("*") if file.is_file())
    return None


def _load_table(entry: DatasetEntry, root: Path) -> Any:
    """Load the split of a dataset from files, a folder, or the hub."""
    path = root / entry.paths[0]
    try:
        return _load_from(entry, path, _local_files(entry, root))
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"the dataset {entry.name} has nothing at {path}, and no hub has a dataset {entry.paths[0]}: "
            "check its path in the mixture"
        ) from error


def _load_from(entry: DatasetEntry, path: Path, files: list[str] | None) -> Any:
    import datasets

    cache = str(resources.cache() / "datasets")

    # Nothing on disk: a hub id, unless the path can only mean a file.
    if files is None:
        hub_id = entry.paths[0]
        if len(entry.paths) > 1 or path.suffix in _FILES or not _HUB_ID.fullmatch(hub_id):
            raise FileNotFoundError
        return datasets.load_dataset(hub_id, split=entry.split, revision=entry.revision, cache_dir=cache)

    if path.is_file():
        if path.suffix not in _FILES:
            raise ValueError(f"the dataset {entry.name} has the file {path}, expected {', '.join(_FILES)}")
        # Loaded from files, a dataset has the one split "train".
        return datasets.load_dataset(_FILES[path.suffix], data_files=files, split="train", cache_dir=cache)

    # A folder that `save_to_disk` wrote: several splits, or one.
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        saved = datasets.load_from_disk(str(path))
        if not isinstance(saved, datasets.DatasetDict):
            return saved
        if entry.split not in saved:
            raise ValueError(
                f"the dataset {entry.name} has no split {entry.split}: it has {', '.join(saved)}"
            )

        return saved[entry.split]

    # A folder of parquet or other files, which the library recognises itself.
    return datasets.load_dataset(str(path), split=entry.split, cache_dir=cache)
