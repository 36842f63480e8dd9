"""Images to caption: files, folders and images in memory, with their original captions."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from monkeylib.digests import image_digest, image_file_digest
from monkeylib.images import SUFFIXES, ImageError, open_image

_NAME_FIELDS = ("image", "name", "file", "file_name", "path")  # of a file of original captions


@dataclass(frozen=True)
class InputImage:
    """An image to caption.

    Bytes of a file name that are not UTF-8 are escaped in `name`, and so are lone surrogates in captions.

    Fields:
        image: a file, or an image in memory.
        name: name of the image in the records.
        original_caption: the caption that it came with, empty if none.
    """

    image: Path | Image.Image
    name: str
    original_caption: str = ""

    def __post_init__(self) -> None:
        # Records are stored as UTF-8, which neither such bytes nor lone surrogates fit into.
        for field in ("name", "original_caption"):
            text = getattr(self, field).encode("utf-8", "backslashreplace").decode("utf-8")
            object.__setattr__(self, field, text)

    def absolute(self) -> "InputImage":
        """Return the same image with an absolute path, for processes that run in other folders."""
        if isinstance(self.image, Image.Image):
            return self
        return replace(self, image=Path(self.image).absolute())

    def open(self) -> Image.Image:
        """Return the RGB image; see `open_images`."""
        return open_images([self])[0]

    def sha256(self) -> str:
        """Return the digest of the file's bytes, or of the size and pixels of an image in memory.

        Raises:
            OSError: the file does not exist, or cannot be read.
        """
        if isinstance(self.image, Image.Image):
            return image_digest(open_image(self.image))
        return image_file_digest(Path(self.image))


def open_images(images: Sequence[InputImage]) -> list[Image.Image]:
    """Return the RGB images of a batch, in memory all at once.

    Raises:
        ImageError: a file does not exist, or is not a readable image. The message names the image instead of
            its path, which differs between machines.
    """

    opened = []
    for image in images:
        try:
            opened.append(open_image(image.image))
        except ImageError as error:
            raise type(error)(error.code, str(error).replace(str(image.image), image.name)) from error

    return opened


def find_images(paths: Iterable[Path | str]) -> list[InputImage]:
    """Return the images at paths: files, and folders with all their subfolders in alphabetical order.

    An image in a folder is named by its path within the folder, an image given as a file by its file name.
    Where two images would share a name, both are named by their full paths.

    Raises:
        FileNotFoundError: a path is no folder and does not have the name of an image.
        ValueError: there are no images.
    """

    images = []
    for path in paths:
        images.extend(_images_at(Path(path)))
    if not images:
        suffixes = " ".join(sorted(SUFFIXES))
        raise ValueError(f"There is nothing to caption: found no images ({suffixes}).")

    # Names identify images in the records, so two images must not share one.
    paths_of_name: dict[str, set[Path]] = {}
    for image in images:
        paths_of_name.setdefault(image.name, set()).add(Path(image.image).absolute())

    unique = []
    for image in images:
        if len(paths_of_name[image.name]) > 1:
            image = replace(image, name=Path(image.image).as_posix())
        unique.append(image)

    return unique


def _images_at(path: Path) -> list[InputImage]:
    if path.is_dir():
        files = [file for file in _visible_files(path) if file.suffix.lower() in SUFFIXES]
        return [InputImage(file, file.relative_to(path).as_posix()) for file in sorted(files)]

    # A file with an image's name that does not exist becomes a record with a failure.
    if path.suffix.lower() not in SUFFIXES and not path.is_file():
        raise FileNotFoundError(f"there is no folder and no image at {path}: check the path")
    return [InputImage(path, path.name)]


def _visible_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders, without hidden ones such as macOS's ._a.png."""
    for path in folder.rglob("*"):
        if not path.name.startswith(".") and path.is_file():
            yield path


def left_out(paths: Iterable[Path | str]) -> Counter[str]:
    """Return how many files, hidden ones aside, `find_images` leaves out in folders, by their endings."""
    endings: Counter[str] = Counter()
    for path in paths:
        files = _visible_files(Path(path)) if Path(path).is_dir() else []
        endings.update(file.suffix.lower() for file in files if file.suffix.lower() not in SUFFIXES)
    return endings


def attach_captions(images: Sequence[InputImage], path: Path | str) -> list[InputImage]:
    """Return the images with their original captions from a file.

    The file is a JSON object of captions by name, or has rows (a JSON list, JSONL, CSV or TSV with a header)
    with the caption under "caption" and the name under "image", "name", "file", "file_name" or "path". Names
    are those of `find_images`; the bare file name is enough if only one image has it.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file holds something else, or no caption of these images.
    """
    captions = _read_captions(Path(path))
    file_names = [Path(image.name).name for image in images]
    counts = Counter(file_names)

    # The full name counts first; a bare file name only if it is unambiguous.
    captioned = []
    for image, file_name in zip(images, file_names, strict=True):
        caption = captions.get(image.name)
        if caption is None and counts[file_name] == 1:
            caption = captions.get(file_name)
        captioned.append(image if caption is None else replace(image, original_caption=caption.strip()))

    if not any(image.original_caption for image in captioned):
        raise ValueError(
            f"{path} has no caption of these images: it names {next(iter(captions), 'nothing')!r}, "
            f"the first image is {images[0].name!r}."
        )

    return captioned


def _read_captions(path: Path) -> dict[str, str]:
    """Return the captions of a file by image name."""
    if not path.is_file():
        raise FileNotFoundError(f"there are no captions at {path}: check the path")

    try:
        rows = _read_rows(path)
        if isinstance(rows, dict):
            return {str(name): str(caption) for name, caption in rows.items()}

        captions = {}
        for row in rows:
            # The first of the fields that the row has.
            name = next(row[field] for field in _NAME_FIELDS if row.get(field))
            captions[str(name)] = str(row["caption"] or "")

        return captions
    except (StopIteration, KeyError, TypeError, AttributeError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} holds no captions: expected a JSON object of captions by name, or rows (JSON, JSONL, "
            f"CSV, TSV) with the fields caption and one of {', '.join(_NAME_FIELDS)}."
        ) from error


def _read_rows(path: Path) -> Any:
    """Return the content of a JSON file, or the rows of a JSONL, CSV or TSV file."""
    suffix = path.suffix.lower()

    # Spreadsheets write a byte order mark, which utf-8-sig skips.
    with path.open(encoding="utf-8-sig", newline="") as file:
        if suffix in (".csv", ".tsv"):
            return list(csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ","))
        if suffix == ".jsonl":
            return [json.loads(line) for line in file if line.strip()]
        return json.load(file)
