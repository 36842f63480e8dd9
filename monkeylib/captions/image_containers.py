"""Images within files that hold many: tar files of WebDataset or a downloader, tables, saved datasets.

They are read by the readers of training data (`monkeylib.data.readers`) and come with their captions. The
digests of a container's images are computed together when the first one is needed, and remembered in
data/cache as long as the container stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from monkeylib.data.file_cache import cached_file, file_state
from monkeylib.data.readers.tables import TableRecords, has_images, is_saved_folder
from monkeylib.data.readers.webdataset import ShardRecords
from monkeylib.data.records import BadRecord
from monkeylib.data.schema import DatasetEntry
from monkeylib.digests import bytes_digest

TAR_SUFFIX = ".tar"
TABLE_SUFFIXES = (".parquet", ".arrow", ".feather")

# Fields that hold a row's image, its caption and its address, the likeliest first.
_IMAGE_FIELDS = ("image", "images", "jpg", "png", "webp", "img")
_CAPTION_FIELDS = ("caption", "original_caption", "text", "TEXT", "txt", "answer")
_ADDRESS_FIELDS = ("url", "URL", "address")

_DIGEST_LINE = 65  # bytes, with the line's end
_UNREADABLE = "-" * (_DIGEST_LINE - 1)
_SAVED_STATES = ("state.json", "dataset_dict.json")


@dataclass(frozen=True)
class StoredImage:
    """An image in a container.

    Fields:
        container: the file, or the folder of a saved dataset.
        number: number of the image in it.
        name: name of the image in it.
        content: returns its bytes; can be pickled.
        caption: the caption that lies beside it, empty if none.
        address: where it was fetched, empty if unknown.
    """

    container: Path
    number: int
    name: str
    content: Callable[[], bytes] = field(repr=False)
    caption: str = ""
    address: str = ""

    def sha256(self) -> str:
        """Return the digest of its bytes.

        Raises:
            OSError: they cannot be read.
        """
        with _digests(self.container).open("rb") as file:
            file.seek(self.number * _DIGEST_LINE)
            digest = file.read(_DIGEST_LINE - 1).decode()
        if digest == _UNREADABLE:
            raise OSError(f"the image {self.name} of {self.container} cannot be read")
        return digest


def is_container(path: Path) -> bool:
    """Return whether a path is a file or a folder of images that this module reads."""
    if path.is_dir():
        return is_saved_folder(path)
    suffix = path.suffix.lower()
    return suffix == TAR_SUFFIX or (suffix in TABLE_SUFFIXES and has_images(path))


def stored_images(container: Path, left_out: Counter[str] | None = None) -> Iterator[StoredImage]:
    """Yield the images of a container in its order, and count records without one.

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: a package that reads tables is not installed.
        ValueError: it is compressed, damaged, or holds no images.
    """
    is_tar = container.suffix.lower() == TAR_SUFFIX and container.is_file()
    left_out = Counter() if left_out is None else left_out
    yield from _images_of_tar(container, left_out) if is_tar else _images_of_table(container, left_out)


def _images_of_tar(container: Path, left_out: Counter[str]) -> Iterator[StoredImage]:
    records = ShardRecords([container])
    number = 0
    for row in range(len(records)):
        try:
            fields = records[row]
        except BadRecord:
            left_out["damaged record of a tar file"] += 1
            continue

        members = [image for image in fields.get("images") or () if callable(image)]
        if not members:
            left_out["record of a tar file without an image"] += 1
        for position, member in enumerate(members):
            name = fields["key"] if len(members) == 1 else f"{fields['key']}.{position}"
            yield StoredImage(container, number, name, member, *_caption_and_address(fields))
            number += 1


def _images_of_table(container: Path, left_out: Counter[str]) -> Iterator[StoredImage]:
    table = _table(container)
    number = 0
    for row in range(len(table)):
        fields = table[row]
        name = next((name for name in (*_IMAGE_FIELDS, *fields) if _has_images(fields.get(name))), None)
        if name is None:
            left_out["row of a table without an image"] += 1
            continue

        images = fields[name] if isinstance(fields[name], list) else [fields[name]]
        for position in range(len(images)):
            image_name = f"{row:08d}" if len(images) == 1 else f"{row:08d}.{position}"
            content = _TableCell(container, row, name, position)
            yield StoredImage(container, number, image_name, content, *_caption_and_address(fields))
            number += 1


def _caption_and_address(fields: dict[str, Any]) -> tuple[str, str]:
    """Return caption and address of a record, empty where there is none."""
    found = []
    for names in (_CAPTION_FIELDS, _ADDRESS_FIELDS):
        values = (fields.get(name) for name in names)
        found.append(next((value for value in values if isinstance(value, str) and value.strip()), ""))
    return found[0].strip(), found[1]


def _has_images(value: Any) -> bool:
    return callable(value) or (isinstance(value, list) and bool(value) and all(map(callable, value)))


@dataclass(frozen=True)
class _TableCell:
    """Place of an image in a table; calling it returns the image's bytes."""

    container: Path
    row: int
    field: str
    position: int

    def __call__(self) -> bytes:
        value = _table(self.container)[self.row][self.field]
        return (value[self.position] if isinstance(value, list) else value)()


def _table(container: Path) -> TableRecords:
    return _open_table(container, file_state(_source(container)))


def _digests(container: Path) -> Path:
    """Return the file of the digests of a container's images, a line each."""
    return _write_digests(container, file_state(_source(container)))


def _source(container: Path) -> Path:
    """Return the file that changes with a container: a saved dataset is written anew with its state."""
    return next((path for name in _SAVED_STATES if (path := container / name).is_file()), container)


@lru_cache(maxsize=2)
def _open_table(container: Path, state: tuple[int, ...]) -> TableRecords:
    return TableRecords(DatasetEntry(name=container.stem, path=container.name), container.parent)


@lru_cache(maxsize=8)
def _write_digests(container: Path, state: tuple[int, ...]) -> Path:
    def write(path: Path) -> None:
        with path.open("w", encoding="ascii") as file:
            for image in stored_images(container):
                try:
                    digest = bytes_digest(image.content())
                except (OSError, ValueError):
                    digest = _UNREADABLE
                file.write(f"{digest}\n")

    return cached_file(_source(container), "image-digests", ".txt", write)
