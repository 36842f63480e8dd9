"""The record that every format is read into, for training and for evaluation: a conversation with images.

A record is a list of messages, which `messages.lay_out` puts in order. Only `prompts.PromptLayout` makes
token ids of it:

    system text | <img> ... </img> | prompt | answer <end of text> | prompt | <img> ... </img> | prompt | ...
                                              labels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from monkeylib.images import ImageError, ImageInput, MissingImageError, open_image, read_size
from monkeylib.messages import (
    IMAGE_PLACEHOLDER,
    ImagePart,
    ImageSource,
    Message,
    Part,
    lay_out,
    replace_images,
)

if TYPE_CHECKING:
    from monkeylib.processing import MonkeyImageProcessor
    from monkeylib.tiling import Grid

T = TypeVar("T")


class BadRecord(ValueError):
    """A record that cannot be used; the message names dataset, file, record, field, and what is wrong."""

    def with_advice(self) -> BadRecord:
        """Return the error with what to do where it ends a training run."""
        return BadRecord(f"{self}. Fix it, or leave bad records out with --skip-bad")


@dataclass(frozen=True)
class Record:
    """A conversation with images.

    Attributes:
        id: id of the record within its dataset; it may repeat.
        messages: perhaps a system message, then a user's and an assistant's in turns.
        dataset: name of the dataset.
        location: where the record lies, for messages: "dataset coco: captions.json, record 17 (line 52)".
        prompt: name of the prompt around each text of the user; without one, texts are tokenised as they are.
        separator: stands between an image, or an earlier answer, and the text that follows, unless the prompt
            takes none. Only used with a prompt.
        answers: all answers that count as correct to the last question; by default that of the assistant.
        source: where the record comes from, if it says so.
        licence: licence of the record, if it says so.
        note: what reading it has changed, for reports.
    """

    id: str
    messages: tuple[Message, ...]
    dataset: str
    location: str
    prompt: str | None = None
    separator: str = ""
    answers: tuple[str, ...] = ()
    source: str = ""
    licence: str = ""
    note: str = ""

    @classmethod
    def from_turns(
        cls,
        id: str,
        images: Sequence[ImageSource],
        turns: Sequence[tuple[str, str]],
        dataset: str,
        location: str,
    ) -> Record:
        """Return a record of images in front of prompts, as they are tokenised, and their answers."""
        messages: list[Message] = []
        leading = tuple(ImagePart(image) for image in images)
        for prompt, answer in turns:
            messages += [Message("user", (*leading, prompt)), Message("assistant", (answer,))]
            leading = ()

        return cls(id, tuple(messages), dataset, location)

    @cached_property
    def images(self) -> tuple[ImageSource, ...]:
        """The images of all messages, in order."""
        parts = [part for message in self.messages for part in message.parts]
        return tuple(part.source for part in parts if isinstance(part, ImagePart))

    @property
    def questions(self) -> tuple[str, ...]:
        """The user's texts, without images and prompt."""
        return tuple(message.text.strip() for message in self.messages if message.role == "user")

    @cached_property
    def prompts(self) -> tuple[tuple[tuple[Part, ...], str], ...]:
        """For each answer the texts and images before it, exactly as they are tokenised, and the answer."""
        return tuple(lay_out(self.messages, self.prompt, self.separator).answered)

    @property
    def turns(self) -> tuple[tuple[str, str], ...]:
        """Prompts, as they are tokenised, and their answers, as texts.

        Images that open the conversation are left out; others are written as `<image>`.
        """
        turns = []
        for number, (parts, answer) in enumerate(self.prompts):
            is_leading = not number
            text = ""
            for part in parts:
                is_leading = is_leading and isinstance(part, ImagePart)
                if not is_leading:
                    text += IMAGE_PLACEHOLDER if isinstance(part, ImagePart) else part
            turns.append((text, answer))

        return tuple(turns)

    def layout_turns(self, visual_tokens: Sequence[int]) -> list[tuple[list[str | int], str]]:
        """Return the prompts and answers as `PromptLayout.encode_conversation` takes them.

        Args:
            visual_tokens: number of tokens of each image.
        """
        tokens = iter(visual_tokens)
        return [(replace_images(parts, tokens), answer) for parts, answer in self.prompts]

    def first_turns(self, count: int) -> Record:
        """Return the record with the first `count` answers and what stands before them."""
        ends = [number for number, message in enumerate(self.messages, 1) if message.role == "assistant"]
        return replace(self, messages=self.messages[: ends[count - 1]])

    def select_grids(self, processor: MonkeyImageProcessor) -> list[Grid]:
        """Return the grid that a processor gives each image.

        Where it follows the image's shape, the size of the image is read, mostly from its header.

        Raises:
            BadRecord: as `open_images`, but for damage behind the header.
        """
        images = self.images
        if not processor.has_auto_grid:
            return [processor.grid] * len(images)

        return [processor.select_grid(size) for size in self.read_sizes()]

    def read_sizes(self) -> list[tuple[int, int]]:
        """Return width and height of each image in pixels, mostly from its header.

        Raises:
            BadRecord: as `open_images`, but for damage behind the header.
        """
        return [
            _read(read_size, image, f"{self.location}, image {number}")
            for number, image in enumerate(self.images, 1)
        ]

    def open_images(self, open: Callable[[ImageInput], Any] = open_image) -> list[Any]:
        """Return the images, decoded, in RGB.

        Args:
            open: opens an image in another way, such as `MonkeyImageProcessor.open`.

        Raises:
            BadRecord: a file is missing, not an image, truncated, or too large (`images.MAX_PIXELS`).
        """
        return [
            _read(open, image, f"{self.location}, image {number}")
            for number, image in enumerate(self.images, 1)
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


def _read(read: Callable[[ImageInput], T], image: ImageSource, location: str) -> T:
    try:
        return read(image() if callable(image) else image)
    except MissingImageError as error:
        raise BadRecord(f"{location}: {error} and the dataset's `images` folder") from error
    except (ImageError, OSError, ValueError) as error:
        raise BadRecord(f"{location}: {error}") from error
