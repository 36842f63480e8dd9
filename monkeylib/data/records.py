"""The record that every format is read into: images, followed by turns of a prompt and its answer."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from monkeylib.images import ImageInput, open_image

MAX_SIDE = 16_384  # pixels
MAX_PIXELS = 89_478_485  # where Pillow begins to warn of a decompression bomb: 256 MiB of RGB
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # none that starts another program

_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)

# An image, its path, or a function that opens it.
ImageSource = ImageInput | Callable[[], Image.Image]


class BadRecord(ValueError):
    """A record that cannot be used; the message names dataset, file, record, field, and what is wrong."""


@dataclass(frozen=True)
class Record:
    """A conversation about images.

    Attributes:
        id: id of the record within its dataset.
        images: the images, in order; they precede the conversation and are opened only when needed.
        turns: prompts, exactly as they are tokenised, and their answers.
        dataset: name of the dataset.
        location: where the record lies, for messages: "dataset coco: captions.json, record 17 (line 52)".
    """

    id: str
    images: tuple[ImageSource, ...]
    turns: tuple[tuple[str, str], ...]
    dataset: str
    location: str

    def open_images(self) -> list[Image.Image]:
        """Return the images, decoded, in RGB.

        Raises:
            BadRecord: a file is missing, not an image, truncated, or larger than `MAX_SIDE` or `MAX_PIXELS`.
        """
        return [
            _open(image, f"{self.location}, image {number}") for number, image in enumerate(self.images, 1)
        ]


class Records(Protocol):
    """A sequence of records, each of which is read only when it is needed."""

    name: str

    def __len__(self) -> int:
        """Return the number of records, bad ones included."""

    def __getitem__(self, number: int) -> Record:
        """Return record `number`, from 0.

        Raises:
            BadRecord: its text or a field is wrong. Images are opened later, by `Record.open_images`.
        """


def _open(image: ImageSource, location: str) -> Image.Image:
    # Only images in files have a path to name in messages.
    path = str(image) if isinstance(image, str | Path) else None
    name = f" {path}" if path else ""

    # Nothing is downloaded while training: the same records must give the same images.
    if path and path.startswith(("http://", "https://")):
        raise BadRecord(f"{location}:{name} is an address; images are files: download it and name its path")
    if path and not Path(path).is_file():
        raise BadRecord(
            f"{location}: there is no image at{name}; check the path and the dataset's `images` folder"
        )

    try:
        if path:
            # Only the header is read here, so that the size is checked before anything is decoded.
            with Image.open(path, formats=FORMATS) as file:
                return _decode(file, f"{location}:{name}")
        return _decode(image() if callable(image) else image, f"{location}:")
    except BadRecord:
        raise
    except Image.DecompressionBombError as error:
        raise BadRecord(
            f"{location}:{name} has far more than the {MAX_PIXELS:,} pixels allowed: resize it"
        ) from error
    except _UNREADABLE as error:
        raise BadRecord(
            f"{location}:{name or ' the image'} cannot be read ({error}); "
            "expected a whole JPEG, PNG or WebP file"
        ) from error


def _decode(image: ImageInput, description: str) -> Image.Image:
    """Decode an image of which only the header has been read, unless it is too large."""
    if isinstance(image, Image.Image):
        width, height = image.size
        if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
            raise BadRecord(
                f"{description} has {width} x {height} pixels; a side may have {MAX_SIDE:,} and an image "
                f"{MAX_PIXELS:,}: resize it"
            )

    return open_image(image)
