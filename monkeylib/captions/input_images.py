"""The images that are to be described: files, folders, images in memory, and their original captions."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from monkeylib.digests import file_digest, image_digest
from monkeylib.images import open_image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_NAME_FIELDS = ("image", "name", "file", "file_name", "path")


@dataclass(frozen=True)
class InputImage:
    """An image to describe: a file or one in memory, its name, and its original caption if it has one.

    What is no Unicode in a name or a caption (a file name in Latin-1) is written as its code.
    """

    image: Path | Image.Image
    name: str
    original_caption: str = ""

    def __post_init__(self) -> None:
        for field in ("name", "original_caption"):
            text = getattr(self, field).encode("utf-8", "backslashreplace").decode("utf-8")
            object.__setattr__(self, field, text)

    def absolute(self) -> "InputImage":
        """The same image, for processes that run in other folders."""
        if isinstance(self.image, Image.Image):
            return self
        return replace(self, image=Path(self.image).absolute())

    def open(self) -> Image.Image:
        """The RGB image; raises what `images.open_image` raises, with the image's name for its path."""
        try:
            return open_image(self.image)
        except (FileNotFoundError, ValueError) as error:
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            raise kind(str(error).replace(str(self.image), self.name)) from error

    def sha256(self) -> str:
        """Of the file's bytes, or of the size and the pixels of an image in memory.

        Raises:
            OSError: there is no such file, or it can't be read.
        """
        if isinstance(self.image, Image.Image):
            return image_digest(open_image(self.image))
        return file_digest(Path(self.image))


def find_images(places: Iterable[Path | str]) -> list[InputImage]:
    """The images of files and folders; a folder's in alphabetical order, those of its folders included.

    An image in a folder is named by its path within it, one given as a file by its file name; where that
    gives two images one name, their names are their whole paths.

    Raises:
        FileNotFoundError: a place is no folder and its name isn't an image's.
        ValueError: there are no images.
    """
    sources = [source for place in map(Path, places) for source in _in(place)]
    if not sources:
        known = " ".join(sorted(SUFFIXES))
        raise ValueError(f"There is nothing to describe: found no images ({known}).")
    named: dict[str, set[Path]] = {}
    for source in sources:
        named.setdefault(source.name, set()).add(Path(source.image).absolute())
    return [
        replace(source, name=Path(source.image).as_posix()) if len(named[source.name]) > 1 else source
        for source in sources
    ]


def _in(place: Path) -> list[InputImage]:
    if not place.is_dir():
        if place.suffix.lower() not in SUFFIXES and not place.is_file():
            raise FileNotFoundError(f"there is no folder and no image at {place}: check the path")
        return [InputImage(place, place.name)]  # an image that is missing is recorded as a failure
    files = [path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    return [InputImage(path, path.relative_to(place).as_posix()) for path in sorted(files)]


def attach_captions(sources: Sequence[InputImage], path: Path | str) -> list[InputImage]:
    """The sources with their original captions from a file.

    A JSON object of captions by name, or rows as JSON list, JSONL, CSV or TSV (with a head line) that have a
    caption under "caption" and a name under one of "image", "name", "file", "file_name" and "path". Names are
    those of `find_images`; a file name alone does where only one image has it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else, or no caption of these images.
    """
    captions = _captions(Path(path))
    bare = [Path(source.name).name for source in sources]
    times, found = Counter(bare), []
    for source, file in zip(sources, bare, strict=True):
        caption = captions.get(source.name)
        if caption is None and times[file] == 1:
            caption = captions.get(file)
        found.append(source if caption is None else replace(source, original_caption=caption.strip()))
    if not any(source.original_caption for source in found):
        raise ValueError(
            f"{path} has no caption of these images: it names {next(iter(captions), 'nothing')!r}, "
            f"the first image is {sources[0].name!r}."
        )
    return found


def _captions(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise FileNotFoundError(f"there are no captions at {path}: check the path")
    try:
        rows = _rows(path)
        if isinstance(rows, dict):
            return {str(name): str(caption) for name, caption in rows.items()}
        return {
            str(next(row[f] for f in _NAME_FIELDS if row.get(f))): str(row["caption"] or "") for row in rows
        }
    except (StopIteration, KeyError, TypeError, AttributeError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} holds no captions: expected a JSON object of captions by name, or rows (JSON, JSONL, "
            f"CSV, TSV) with the fields caption and one of {', '.join(_NAME_FIELDS)}."
        ) from error


def _rows(path: Path) -> Any:
    kind = path.suffix.lower()
    with path.open(encoding="utf-8-sig", newline="") as file:
        if kind in (".csv", ".tsv"):
            return list(csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ","))
        if kind == ".jsonl":
            return [json.loads(line) for line in file if line.strip()]
        return json.load(file)
