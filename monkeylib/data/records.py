"""The one record that every format is read into: images, then turns of a prompt and its answer."""

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


class BadRecord(ValueError):
    """One record that cannot be trained on: a sentence naming set, file, line or number, field, what came."""


@dataclass(frozen=True)
class Record:
    """A conversation about images.

    Attributes:
        id: of the record within its set.
        images: in the order of their spans, which open the conversation; paths and functions are opened late.
        turns: the prompt exactly as it is tokenised, and its answer.
        dataset: name of the set.
        place: where the record lies, for messages: "set coco: captions.json, record 17 (line 52)".
    """

    id: str
    images: tuple[ImageInput | Callable[[], Image.Image], ...]
    turns: tuple[tuple[str, str], ...]
    dataset: str
    place: str

    def open_images(self) -> list[Image.Image]:
        """The images, decoded, in RGB.

        Raises:
            BadRecord: a file is missing, no image, cut off, or larger than `MAX_SIDE` or `MAX_PIXELS`.
        """
        return [_open(image, f"{self.place}, image {n}") for n, image in enumerate(self.images, 1)]


class Records(Protocol):
    """A set of records, each read when it is asked for."""

    name: str

    def __len__(self) -> int:
        """How many records there are, bad ones too."""

    def __getitem__(self, number: int) -> Record:
        """Record `number`, from 0.

        Raises:
            BadRecord: its text or a field is wrong. Images are opened later, by `Record.open_images`.
        """


def _open(source: ImageInput | Callable[[], Image.Image], place: str) -> Image.Image:
    name = f" {source}" if isinstance(source, str | Path) else ""
    if name and str(source).startswith(("http://", "https://")):
        raise BadRecord(f"{place}:{name} is an address; images are files: download it and name its path")
    if name and not Path(source).is_file():
        raise BadRecord(f"{place}: there is no image at{name}; check the path and the set's `images` folder")
    try:
        if name:
            with Image.open(source, formats=FORMATS) as image:
                return _decoded(image, f"{place}:{name}")
        return _decoded(source() if callable(source) else source, f"{place}:")
    except BadRecord:
        raise
    except Image.DecompressionBombError as error:
        raise BadRecord(
            f"{place}:{name} has far more than the {MAX_PIXELS:,} pixels allowed: resize it"
        ) from error
    except _UNREADABLE as error:
        what = name or " the image"
        raise BadRecord(
            f"{place}:{what} cannot be read ({error}); expected a whole JPEG, PNG or WebP file"
        ) from error


def _decoded(image: ImageInput, what: str) -> Image.Image:
    """Decode an image whose header is read, unless it is too large."""
    if isinstance(image, Image.Image):
        width, height = image.size
        if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
            raise BadRecord(
                f"{what} has {width} x {height} pixels; a side may have {MAX_SIDE:,} and an image "
                f"{MAX_PIXELS:,}: resize it"
            )
    return open_image(image)
