"""Images to caption: files, folders, documents, tar files, tables and images in memory, with their captions.

`list_images` lists them as a stream, in constant memory: of a folder, the names that lie directly in it are
held, no more.
"""

import codecs
import json
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from monkeylib.captions.image_containers import StoredImage, is_container, stored_images
from monkeylib.captions.original_captions import OriginalCaptions
from monkeylib.digests import DigestSet, image_digest, image_file_digest
from monkeylib.image_sources import PDF_SUFFIX, SUFFIXES, split_page
from monkeylib.images import ImageError, is_image_file, list_pages, open_image, read_image

# Of an image: a letter has about as many pixels, and experts see skis and cats in anything smaller.
LEAST_SIDE = 8
_PAGED_SUFFIXES = frozenset({PDF_SUFFIX, ".tif", ".tiff", ""})
_NAMED_REASONS = 5  # why files are left out
_LONGEST_CAPTION = 1 << 16  # bytes of a .txt file beside an image
# Of captions, not of images.
_LIST_SUFFIXES = (".tsv", ".csv", ".json", ".jsonl")


@dataclass(frozen=True)
class InputImage:
    """An image to caption.

    Bytes of a file name that are not UTF-8 are escaped in `name`, and so are lone surrogates in captions.

    Fields:
        image: a file, an image in a container, or an image in memory.
        name: name of the image in the records.
        original_caption: the caption that it came with, empty if none.
        facts: JSON file beside the image in which a downloader states its address; None if there is none.
    """

    image: Path | StoredImage | Image.Image
    name: str
    original_caption: str = ""
    facts: Path | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Records are stored as UTF-8, which neither such bytes nor lone surrogates fit into.
        for attribute in ("name", "original_caption"):
            text = getattr(self, attribute).encode("utf-8", "backslashreplace").decode("utf-8")
            object.__setattr__(self, attribute, text)

    def absolute(self) -> "InputImage":
        """Return the same image with an absolute path, for processes that run in other folders."""
        if isinstance(self.image, Image.Image | StoredImage):
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
        content, place = self.image, str(self.image)
        if isinstance(content, StoredImage):
            content, place = content.content(), "the image "
        try:
            pixels, notices = read_image(content)
        except ImageError as error:
            raise type(error)(error.code, self._named(str(error), place)) from error

        if min(pixels.size) < LEAST_SIDE:
            size = f"{pixels.width} x {pixels.height}"
            raise ImageError(
                "too-small", f"{self.name} has {size} pixels: to be described, a side needs {LEAST_SIDE}"
            )
        return pixels, tuple(self._named(notice, place) for notice in notices)

    def _named(self, text: str, place: str) -> str:
        """Return a message with the image's name for what the message calls it."""
        if isinstance(self.image, StoredImage):
            return f"{self.name} {text.removeprefix(place)}" if text.startswith(place) else text
        return text.replace(place, self.name)

    def sha256(self) -> str:
        """Return the digest of the file's bytes, or of the size and pixels of an image in memory.

        Raises:
            OSError: the file does not exist, or cannot be read.
        """
        if isinstance(self.image, Image.Image):
            return image_digest(open_image(self.image))
        if isinstance(self.image, StoredImage):
            return self.image.sha256()
        return image_file_digest(Path(self.image))


class ImageListing:
    """The images at some paths, without doubles of a name. They are listed anew at each iteration.

    Args:
        paths: files and folders.
        captions: file of original captions, see `OriginalCaptions`. They take precedence over those that
            lie beside the images.
        without: a folder that is not searched.

    Raises: as `list_images`.

    Attributes:
        paths: the files and folders.
        left_out: how many files in folders are no images, by reason: their ending, "hidden" and so on.
        captioned: how many images have an original caption.
        captions: the original captions of the file, None without one.
    """

    def __init__(
        self,
        paths: Iterable[Path | str],
        captions: Path | str | None = None,
        *,
        without: Path | str | None = None,
    ) -> None:
        self._without = None if without is None else os.path.realpath(without)
        self.paths = []
        for path in map(Path, paths):
            _check_path(path)
            self.paths.append(path.absolute())
        self.captions = None if captions is None else OriginalCaptions(Path(captions))

        # Names that several images have: images of one path don't.
        self._shared_names = DigestSet()
        if len(self.paths) > 1:
            self._shared_names = _shared_names(self._listed(Counter()))
        if self.captions is not None:
            self.captions.note_names(image.name for image in self._listed(Counter()))

        self.left_out: Counter[str] = Counter()
        self._count = self.captioned = 0
        first = None
        for image in self._captioned(self.left_out):
            first = first or image
            self._count += 1
            self.captioned += bool(image.original_caption)

        if first is None:
            suffixes = " ".join(sorted([*SUFFIXES, PDF_SUFFIX]))
            reasons = f"; {describe_left_out(self.left_out)}" if self.left_out else ""
            raise ValueError(f"There is nothing to caption: found no images ({suffixes}){reasons}.")
        if self.captions is not None and self.captions.count == self.captions.unmatched:
            raise ValueError(
                f"{captions} has no caption of these images: it names {self.captions.first_name()!r}, "
                f"the first image is {first.name!r}."
            )

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[InputImage]:
        return self._captioned(Counter())

    def remarks(self) -> list[str]:
        """Return what is to be told of the listing: what was left out, and what has no caption."""
        remarks = []
        if self.left_out:
            remarks.append(describe_left_out(self.left_out))
        if self.captioned:
            text = f"original captions: {self.captioned} of {self._count} images have one"
            if self.captions is not None and self.captions.unmatched:
                text += f"; {self.captions.unmatched} of {self.captions.count} captions match no image"
            if self.captions is not None and self.captions.by_position:
                text += "; names that are numbers were taken for lines of the list, counted from 0"
            if self.captions is not None and self.captions.not_fetched:
                text += f"; {self.captions.not_fetched} images were not fetched"
            remarks.append(text)
        return remarks

    def _captioned(self, left_out: Counter[str]) -> Iterator[InputImage]:
        """Yield the images with their names and captions."""
        for image in self._listed(left_out):
            if self.captions is not None:
                caption = self.captions.find(image.name, _address(image))
                if caption is not None:
                    image = replace(image, original_caption=caption)
            # Names identify images in the records, so two images must not share one.
            if len(self.paths) > 1 and image.name in self._shared_names:
                image = replace(image, name=_full_path(image))
            yield image

    def _listed(self, left_out: Counter[str]) -> Iterator[InputImage]:
        for path in self.paths:
            yield from _images_at(path, left_out, self._without)


def find_images(paths: Iterable[Path | str]) -> list[InputImage]:
    """Return the images at paths; see `list_images`."""
    return [*iter(list_images(paths))]


def list_images(
    paths: Iterable[Path | str],
    captions: Path | str | None = None,
    *,
    without: Path | str | None = None,
) -> ImageListing:
    """List the images at paths: files, and folders with all their subfolders, in alphabetical order.

    In a folder, images are known by their endings, and by their content where a file has none. Linked folders
    are followed, each folder once; what is hidden (`._a.png` of macOS, `.thumbnails`) is left out. Each page
    of a PDF file, and of a TIFF file of several pages, is an image, and so is each image of a tar file (of
    WebDataset, or of a downloader), of a parquet or Arrow file, and of a saved dataset of Hugging Face.

    An image in a folder is named by its path within the folder, an image given as a file by its file name,
    pages with their number: `scan.pdf#3`, images of containers with their key or row: `00000/000000017`.
    Where two images would share a name, both are named by their full paths.

    Original captions are those of containers, and those of `.txt` files beside images.

    Args:
        paths: files and folders.
        captions: file of original captions, see `OriginalCaptions`.
        without: a folder below one of the paths that holds none of the images, such as that of the results.

    Raises:
        FileNotFoundError: a path is no folder and does not have the name of an image.
        ValueError: there are no images, no captions of these images, or a path is a pipe or a device.
    """
    return ImageListing(paths, captions, without=without)


def describe_left_out(left_out: Counter[str]) -> str:
    """Return what was left out, and why, in words: `left out: 3 files (2 .txt, 1 hidden)`."""
    count = left_out.total()
    by_frequency = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    reasons = [f"{number} {reason}" for reason, number in by_frequency[:_NAMED_REASONS]]
    if others := sum(number for _, number in by_frequency[_NAMED_REASONS:]):
        reasons.append(f"{others} others")
    return f"left out: {count} {'file' if count == 1 else 'files'} ({', '.join(reasons)})"


def _check_path(path: Path) -> None:
    """Check that a path may hold images.

    Raises: as `list_images`.
    """
    file, _ = split_page(path)
    if path.is_dir() or _is_container_file(path):
        return
    if file.exists() and not file.is_file():
        raise ValueError(f"{path} is no regular file: expected an image or a folder of images")
    if file.suffix.lower() in _LIST_SUFFIXES:
        raise ValueError(
            f"{path} is a list, not an image: name the folder of the images, and pass the list as --captions"
        )
    # A file with an image's name that does not exist becomes a record with a failure.
    if not file.is_file() and not _has_image_suffix(file):
        raise FileNotFoundError(f"there is no folder and no image at {path}: check the path")


def _is_container_file(path: Path) -> bool:
    """Return whether a file that exists holds many images."""
    return path.is_file() and is_container(path)


def _images_at(path: Path, left_out: Counter[str], without: str | None = None) -> Iterator[InputImage]:
    if path.is_dir() and not is_container(path):
        yield from _images_in(str(path), "", False, _Search(os.path.realpath(path), left_out, without))
    elif path.is_dir() or _is_container_file(path):
        yield from _images_of_container(path, path.stem if path.is_file() else path.name, left_out)
    else:
        for page in _pages(path):
            yield InputImage(page, page.name)


def _images_of_container(path: Path, name: str, left_out: Counter[str]) -> Iterator[InputImage]:
    for image in stored_images(path, left_out):
        yield InputImage(image, f"{name}/{image.name}", image.caption)


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
    return _is_image_suffix(path.suffix.lower())


def _is_image_suffix(suffix: str) -> bool:
    return suffix in SUFFIXES or suffix == PDF_SUFFIX


@dataclass(frozen=True)
class _Search:
    """What is known while a folder is searched.

    Fields:
        root: real path of the folder that was named.
        left_out: counts what is no image.
        without: real path of a folder that is not searched.
        visited: real paths of folders outside of it that were reached by links.
    """

    root: str
    left_out: Counter[str]
    without: str | None = None
    visited: set[str] = field(default_factory=set)

    def includes(self, folder: str, is_linked: bool) -> bool:
        """Return whether a folder is to be searched: not if it is left out, or found in another place."""
        if self.without is not None and os.path.realpath(folder) == self.without:
            return False
        if not is_linked:
            return True

        # What lies below the folder that was named is found there, unless it is hidden.
        real_path = os.path.realpath(folder)
        parts = Path(os.path.relpath(real_path, self.root)).parts
        if real_path in self.visited or not any(part.startswith(".") for part in parts):
            return False
        self.visited.add(real_path)
        return True


def _images_in(folder: str, prefix: str, is_linked: bool, search: _Search) -> Iterator[InputImage]:
    """Yield the images of a folder and its subfolders in alphabetical order, and count what else is there.

    Paths are texts here: millions of them would take long to be parsed.

    Args:
        folder: the folder.
        prefix: its path within the folder that was named, with a slash behind it.
        is_linked: whether it was reached by a link.
        search: where and what was found.
    """
    try:
        entries = _entries_of(folder)
    except OSError:
        search.left_out["folder that may not be opened"] += 1
        return

    for entry in entries:
        name, _, kind = entry.partition("\0")
        path = f"{folder}/{name}"
        stem, suffix = os.path.splitext(name)
        suffix = suffix.lower()

        if name.startswith("."):
            search.left_out["hidden"] += 1
        elif kind == "folder":
            by_link = is_linked or os.path.islink(path)
            if search.includes(path, by_link):
                yield from _images_in(path, f"{prefix}{name}/", by_link, search)
        elif kind != "file":
            search.left_out[kind] += 1
        elif _is_image_suffix(suffix) or (not suffix and is_image_file(path)):
            text = ""
            if _contains(entries, f"{stem}.txt"):
                text = _read_caption(f"{folder}/{stem}.txt", search.left_out)
            facts = Path(folder, f"{stem}.json") if _contains(entries, f"{stem}.json") else None
            for page in _pages(Path(path)) if suffix in _PAGED_SUFFIXES else [Path(path)]:
                yield InputImage(page, f"{prefix}{page.name}", text, facts)
        elif is_container(Path(path)):
            yield from _images_of_container(Path(path), f"{prefix}{stem}", search.left_out)
        elif suffix not in (".txt", ".json") or not _is_beside_image(stem, entries):
            search.left_out[suffix or "without an ending"] += 1


def _entries_of(folder: str) -> list[str]:
    """Return the sorted names in a folder, each with a null byte and its kind, in one text each."""
    entries = []
    with os.scandir(folder) as found:
        for entry in found:
            if entry.is_dir():
                kind = "folder"
            elif entry.is_file():
                kind = "file"
            else:
                kind = "broken link" if entry.is_symlink() else "pipe or device"
            entries.append(f"{entry.name}\0{kind}")
    entries.sort()
    return entries


def _contains(entries: Sequence[str], name: str) -> bool:
    """Return whether a file is among the sorted entries of a folder."""
    entry = f"{name}\0file"
    row = bisect_left(entries, entry)
    return row < len(entries) and entries[row] == entry


def _is_beside_image(stem: str, entries: Sequence[str]) -> bool:
    """Return whether an image of this name, with any ending, is among the sorted entries of a folder."""
    start = f"{stem}."
    for row in range(bisect_left(entries, start), len(entries)):
        name, _, kind = entries[row].partition("\0")
        if not name.startswith(start):
            return False
        image_stem, suffix = os.path.splitext(name)
        if kind == "file" and image_stem == stem and _is_image_suffix(suffix.lower()):
            return True
    return False


def _read_caption(path: str, left_out: Counter[str]) -> str:
    """Return the caption in a text file; empty, and counted, if it can't be read."""
    try:
        with open(path, "rb") as file:
            content = file.read(_LONGEST_CAPTION)
        # The last character of a longer text may have been cut.
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        return decoder.decode(content, final=len(content) < _LONGEST_CAPTION).strip()
    except OSError:
        left_out[".txt that can't be read"] += 1
    except UnicodeDecodeError:
        left_out[".txt that is not UTF-8"] += 1
    return ""


def _address(image: InputImage) -> str:
    """Return the address at which an image was fetched, empty if it is unknown."""
    if isinstance(image.image, StoredImage):
        return image.image.address
    if image.facts is None:
        return ""
    try:
        address = json.loads(image.facts.read_bytes()).get("url")
    except (OSError, ValueError, AttributeError):
        return ""
    return address if isinstance(address, str) else ""


def _shared_names(images: Iterable[InputImage]) -> DigestSet:
    """Return the names that images of different paths share; holds 16 bytes for each image."""
    numbers = ((DigestSet.number(image.name), DigestSet.number(_full_path(image))) for image in images)
    pairs = np.unique(np.fromiter(numbers, np.dtype(("u8", 2))), axis=0)
    names, counts = np.unique(pairs[:, 0], return_counts=True)
    return DigestSet(names[counts > 1])


def _full_path(image: InputImage) -> str:
    if isinstance(image.image, StoredImage):
        return f"{image.image.container.as_posix()}/{image.image.name}"
    return Path(image.image).as_posix()
