"""Sets of the library `datasets` from Hugging Face: folders that it saved, parquet files, hub ids.

The set's `columns` name the image (an image column, bytes, or a path), the question, the answer (a text or
a list of texts, of which the most frequent is taken) and the id. What has to be converted or downloaded goes
to data/cache/datasets.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from monkeylib import resources
from monkeylib.data.readers.base import Row, SetRecords, takes_question
from monkeylib.data.records import FORMATS, Record
from monkeylib.data.schema import DataSet

_FILES = {".parquet": "parquet", ".arrow": "arrow", ".json": "json", ".jsonl": "json", ".csv": "csv"}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def read(entry: DataSet, root: Path) -> SetRecords:
    """The records of a dataset's split.

    Raises:
        ModuleNotFoundError: the package datasets isn't installed.
        FileNotFoundError: nothing lies at the path, and no hub has a set of that id.
        ValueError: a split or a column that the set doesn't have.
    """
    return SetRecords(entry, root, TableRows(entry, root), parse)


def parse(row: Row) -> Record:
    """A record of one row's columns; its image is read when it is opened."""
    columns = row.entry.columns
    question = row.field(columns.question) if takes_question(row.entry.prompt) else ""
    prompt = row.prompt(question, columns.question)
    answer = row.answer(row.field(columns.answer), columns.answer)
    image = row.field(columns.image)
    if image is None:
        raise row.bad(columns.image, "an image", image)
    images = row.paths(image, columns.image) if isinstance(image, str | list) else [image]
    return row.record(images, [(prompt, answer)], row.value.get(columns.id))


class TableRows:
    """The text columns of a dataset as rows, with a function for each image."""

    def __init__(self, entry: DataSet, root: Path) -> None:
        columns = entry.columns
        table = _load(entry, root)
        wanted = [columns.image, columns.answer, *([columns.id] if columns.id else [])]
        wanted += [columns.question] if takes_question(entry.prompt) else []
        missing = [column for column in wanted if column not in table.column_names]
        if missing:
            raise ValueError(
                f"the set {entry.name} has no column {missing[0]}: `columns` must name some of "
                f"{', '.join(table.column_names)}"
            )
        self.entry, self.shown = entry, ", ".join(entry.paths)
        self.files = [Path(path) for path in _local(entry, root) or []]
        feature = table.features[columns.image]
        self._paths = getattr(feature, "dtype", None) == "string"
        if type(feature).__name__ == "Image":  # give the bytes: decoding is Record.open_images' matter
            table = table.cast_column(columns.image, type(feature)(decode=False))
        self._images = table.select_columns([columns.image])
        texts = [column for column in wanted if column != columns.image or self._paths]
        self._texts = table.select_columns(texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self._texts[number]
        return row if self._paths else row | {self.entry.columns.image: TableImage(self._images, number)}

    def place(self, number: int) -> str:
        """The set's path and the number of the row."""
        return f"{self.shown}, row {number + 1}"

    def ids(self) -> Iterable[Any]:
        """The column of ids, if one is named."""
        return self._texts[self.entry.columns.id] if self.entry.columns.id else ()


@dataclass(frozen=True)
class TableImage:
    """Opens the image of a row: a struct of bytes and path, or plain bytes."""

    table: Any
    number: int

    def __call__(self) -> Image.Image:
        """The image, its pixels not yet decoded."""
        value = self._value()
        if not isinstance(value, bytes | str):
            raise ValueError(f"the column of images holds {type(value).__name__}, expected bytes or a path")
        return Image.open(value if isinstance(value, str) else io.BytesIO(value), formats=FORMATS)

    def content(self) -> bytes:
        """The bytes of the row, or the path in it: what tells its image from others."""
        value = self._value()
        return value if isinstance(value, bytes) else repr(value).encode()

    def _value(self) -> Any:
        (value,) = self.table[self.number].values()
        if not isinstance(value, dict):
            return value
        return value.get("path") or None if value.get("bytes") is None else value["bytes"]


def _local(entry: DataSet, root: Path) -> list[str] | None:
    """The files of a set on disk, None for a hub id."""
    places = [root / path for path in entry.paths]
    if all(place.is_file() for place in places):
        return [str(place) for place in places]
    if len(places) == 1 and places[0].is_dir():
        return sorted(str(file) for file in places[0].rglob("*") if file.is_file())
    return None


def _load(entry: DataSet, root: Path) -> Any:
    """The dataset of a set's split."""
    import datasets

    files, cache = _local(entry, root), str(resources.cache() / "datasets")
    place = root / entry.paths[0]
    try:
        if files is None:
            if len(entry.paths) > 1 or place.suffix in _FILES or not _HUB_ID.fullmatch(entry.paths[0]):
                raise FileNotFoundError
            return datasets.load_dataset(
                entry.paths[0], split=entry.split, revision=entry.revision, cache_dir=cache
            )
        if place.is_file():
            if place.suffix not in _FILES:
                raise ValueError(f"the set {entry.name} has the file {place}, expected {', '.join(_FILES)}")
            return datasets.load_dataset(
                _FILES[place.suffix], data_files=files, split="train", cache_dir=cache
            )
        if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
            saved = datasets.load_from_disk(str(place))
            return saved[entry.split] if isinstance(saved, datasets.DatasetDict) else saved
        return datasets.load_dataset(str(place), split=entry.split, cache_dir=cache)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"the set {entry.name} has nothing at {place}, and no hub gives a set {entry.paths[0]}: "
            "check its path in the mixture"
        ) from error
    except KeyError as error:
        raise ValueError(
            f"the set {entry.name} has no split {entry.split}: it has {', '.join(saved)}"
        ) from error
