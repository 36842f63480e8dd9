"""Images to caption: files, folders and images in memory, with their original captions."""

import csv
import json
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from monkeylib.digests import image_digest, image_file_digest
from monkeylib.images import (
    PDF_SUFFIX,
    SUFFIXES,
    ImageError,
    is_image_file,
    list_pages,
    open_image,
    read_image,
    split_page,
)

_NAME_FIELDS = ("image", "name", "file", "file_name", "path")  # of a file of original captions
# Of an image: a letter has about as many pixels, and experts see skis and cats in anything smaller.
LEAST_SIDE = 8
_PAGED_SUFFIXES = frozenset({PDF_SUFFIX, ".tif", ".tiff", ""})
_NAMED_REASONS = 5  # why files are left out


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
        """Return the RGB image; see `read`."""
        return self.read()[0]

    def read(self) -> tuple[Image.Image, tuple[str, ...]]:
        """Return the RGB image, and what is to be told of its file: pages left out, signs of damage.

        Messages name the image instead of its path, which differs between machines.

        Raises:
            ImageError: the file does not exist, is not a readable image, or has a side below `LEAST_SIDE`.
        """
        try:
            pixels, notices = read_image(self.image)
        except ImageError as error:
            raise type(error)(error.code, str(error).replace(str(self.image), self.name)) from error

        if min(pixels.size) < LEAST_SIDE:
            size = f"{pixels.width} x {pixels.height}"
            raise ImageError(
                "too-small", f"{self.name} has {size} pixels: to be described, a side needs {LEAST_SIDE}"
            )
        return pixels, tuple(notice.replace(str(self.image), self.name) for notice in notices)

    def sha256(self) -> str:
        """Return the digest of the file's bytes, or of the size and pixels of an image in memory.

        Raises:
            OSError: the file does not exist, or cannot be read.
        """
        if isinstance(self.image, Image.Image):
            return image_digest(open_image(self.image))
        return image_file_digest(Path(self.image))


@dataclass(frozen=True)
class ImageListing:
    """The images at some paths.

    Fields:
        images: the images, without doubles of a name.
        left_out: how many files in folders are no images, by reason: their ending, "hidden" and so on.
    """

    images: list[InputImage]
    left_out: Counter[str]


def find_images(paths: Iterable[Path | str]) -> list[InputImage]:
    """Return the images at paths; see `list_images`."""
    return list_images(paths).images


def list_images(paths: Iterable[Path | str]) -> ImageListing:
    """List the images at paths: files, and folders with all their subfolders, in alphabetical order.

    In a folder, images are known by their endings, and by their content where a file has none. Linked folders
    are followed, each folder once; what is hidden (`._a.png` of macOS, `.thumbnails`) is left out. Each page
    of a PDF file, and of a TIFF file of several pages, is an image.

    An image in a folder is named by its path within the folder, an image given as a file by its file name,
    pages with their number: `scan.pdf#3`. Where two images would share a name, both are named by their full
    paths.

    Raises:
        FileNotFoundError: a path is no folder and does not have the name of an image.
        ValueError: there are no images, or a path is a pipe or a device.
    """
    images: list[InputImage] = []
    left_out: Counter[str] = Counter()
    for path in paths:
        images.extend(_images_at(Path(path), left_out))

    if not images:
        suffixes = " ".join(sorted([*SUFFIXES, PDF_SUFFIX]))
        reasons = f"; {describe_left_out(left_out)}" if left_out else ""
        raise ValueError(f"There is nothing to caption: found no images ({suffixes}){reasons}.")

    # Names identify images in the records, so two images must not share one.
    paths_of_name: dict[str, set[Path]] = {}
    for image in images:
        paths_of_name.setdefault(image.name, set()).add(Path(image.image).absolute())

    unique = []
    for image in images:
        if len(paths_of_name[image.name]) > 1:
            image = replace(image, name=Path(image.image).as_posix())
        unique.append(image)

    return ImageListing(unique, left_out)


def describe_left_out(left_out: Counter[str]) -> str:
    """Return what was left out, and why, in words: `left out: 3 files (2 .txt, 1 hidden)`."""
    count = left_out.total()
    by_frequency = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    reasons = [f"{number} {reason}" for reason, number in by_frequency[:_NAMED_REASONS]]
    if others := sum(number for _, number in by_frequency[_NAMED_REASONS:]):
        reasons.append(f"{others} others")
    return f"left out: {count} {'file' if count == 1 else 'files'} ({', '.join(reasons)})"


def _images_at(path: Path, left_out: Counter[str]) -> list[InputImage]:
    if path.is_dir():
        files = sorted(_image_files(path, left_out))
        return [
            InputImage(page, page.relative_to(path).as_posix()) for file in files for page in _pages(file)
        ]

    file, _ = split_page(path)
    if file.exists() and not file.is_file():
        raise ValueError(f"{path} is no regular file: expected an image or a folder of images")
    # A file with an image's name that does not exist becomes a record with a failure.
    if not file.is_file() and not _has_image_suffix(file):
        raise FileNotFoundError(f"there is no folder and no image at {path}: check the path")
    return [InputImage(page, page.name) for page in _pages(path)]


def _pages(path: Path) -> list[Path]:
    """Return the pages of a document; a file that cannot be read is itself, and will become a failure."""
    # Others have one page, whatever they hold.
    file, _ = split_page(path)
    if file.suffix.lower() not in _PAGED_SUFFIXES:
        return [path]

    try:
        return list_pages(path)
    except (ImageError, OSError):
        return [path]


def _has_image_suffix(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES or path.suffix.lower() == PDF_SUFFIX


def _image_files(folder: Path, left_out: Counter[str]) -> Iterator[Path]:
    """Yield the image files of a folder and its subfolders, and count what else is in there."""
    # Links come last: a folder that is reached without one keeps its own path.
    folders, links = deque([folder]), deque()
    visited = set()

    while folders or links:
        current = folders.popleft() if folders else links.popleft()
        real_path = os.path.realpath(current)
        if real_path in visited:
            continue
        visited.add(real_path)

        try:
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError:
            left_out["folder that may not be opened"] += 1
            continue

        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith("."):
                left_out["hidden"] += 1
            elif entry.is_dir():
                (links if entry.is_symlink() else folders).append(path)
            elif not entry.is_file():
                left_out["broken link" if entry.is_symlink() else "pipe or device"] += 1
            elif _has_image_suffix(path) or (not path.suffix and is_image_file(path)):
                yield path
            else:
                left_out[path.suffix.lower() or "without an ending"] += 1


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
