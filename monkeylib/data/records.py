"""The record that every format is read into: images, followed by turns of a prompt and its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from monkeylib.images import ImageError, ImageInput, MissingImageError, open_image

# An image, or a function that fetches it.
ImageSource = ImageInput | Callable[[], ImageInput]


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
            BadRecord: a file is missing, not an image, truncated, or too large (`images.MAX_PIXELS`).
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
    try:
        return open_image(image() if callable(image) else image)
    except MissingImageError as error:
        raise BadRecord(f"{location}: {error} and the dataset's `images` folder") from error
    except (ImageError, OSError, ValueError) as error:
        raise BadRecord(f"{location}: {error}") from error
