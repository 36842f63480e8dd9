"""A raised model of transformers, asked about images as a Monkey is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from monkeylib.images import ImageError, ImageInput, open_image
from monkeylib.messages import ImagePart, Message, Part, read_messages
from monkeylib.model.answers import Answer
from monkeylib.model.streaming import AnswerStream
from monkeylib.monkey import Monkey
from monkeylib.processing import Content, GridInput
from monkeylib.raised_session import RaisedSession
from monkeylib.raising import Raised
from monkeylib.raising.conversations import Conversations
from monkeylib.raising.encodings import can_share, encode_views
from monkeylib.tiling import AutoGrid, Grid, as_grid


@dataclass(repr=False)
class RaisedMonkey(Monkey):
    """A raised model of transformers (`raising.raise_resolution`), ready to answer as a Monkey does.

    Prompts stand in the base's chat template, or as plain text where it has none.

    Fields:
        model, processor: what `raise_resolution` or `load_raised` returned.
    """

    model: PreTrainedModel
    processor: ProcessorMixin

    def __post_init__(self) -> None:
        self.conversations = Conversations(self.model, self.processor)

    @property
    def has_sessions(self) -> bool:
        """Whether questions about an image share its encoding, as in most families."""
        return can_share(self.model)

    @property
    def default_prompt(self) -> str:
        """Name of the prompt where none is requested: a chat model reads the question as it is."""
        return self.conversations.default_prompt

    @property
    def end_ids(self) -> list[int]:
        """Tokens that end an answer."""
        return self.conversations.end_ids

    def with_grid(self, grid: GridInput) -> RaisedMonkey:
        """Return the same model with another grid for images where none is named.

        Raises:
            ValueError: it is no grid, or the model has no adapters for its tiles.
        """
        requested = as_grid(grid)
        if isinstance(requested, Grid):
            self.conversations.views.grids.tile_numbers(requested)
        return replace(self, grid=requested)

    def limit_grid(self, grid: GridInput | None) -> Grid | AutoGrid | None:
        """Return a grid as the processor takes it; None stands for this model's own."""
        return self.grid if grid is None else as_grid(grid)

    def text_ids(self, text: str) -> list[int]:
        """Return the tokens of a text that continues a prompt."""
        return self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]

    def append_ids(self, inputs: Mapping[str, Any], ids: torch.Tensor) -> dict[str, Any]:
        """Return prepared `inputs` of one prompt with more tokens `[1, T]` behind it.

        Raises:
            ValueError: the model has an encoder and a decoder.
        """
        return self.conversations.append_ids(inputs, ids)

    def select_grid(self, size: tuple[int, int], grid: GridInput | None = None) -> Grid:
        """Return the grid of an image of this width and height in pixels."""
        views = self.conversations.views
        return views.grids.select(size, views.tile_size, self.limit_grid(grid))

    @property
    def resize_mode(self) -> str:
        """How images are brought to the shape of their grid (`tiling.resize`)."""
        return self.conversations.views.resize_mode

    def _answer_pairs(
        self,
        images: Sequence[Any],
        texts: Sequence[str],
        prompt: str,
        max_new_tokens: int,
        grid: GridInput | None,
        options: Mapping[str, Any],
    ) -> list[Answer]:
        """Answer questions as `answer_batch` does; none of the images is missing."""
        answers: dict[int, Answer] = {}

        # Questions about one image share its encoding. Samples of a batch are drawn together.
        shares = self.has_sessions and not options.get("do_sample")
        for numbers in _rows_of_images(images).values() if shares else ():
            if len(numbers) > 1:
                session = self.session(images[numbers[0]], grid)
                shared = [texts[number] for number in numbers]
                of_image = session.answer_batch(shared, prompt, max_new_tokens, **options)
                answers.update(zip(numbers, of_image, strict=True))

        others = [number for number in range(len(texts)) if number not in answers]
        if others:
            chosen = [images[number] for number in others], [texts[number] for number in others]
            generated = self.generate(self.prepare(*chosen, prompt, grid), max_new_tokens, **options)
            answers.update(zip(others, generated, strict=True))
        return [answers[number] for number in range(len(texts))]

    def answer_messages(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        prompt: str | None = None,
        max_new_tokens: int = 128,
        grid: GridInput | None = None,
        **options: Any,
    ) -> Answer:
        """Answer the last question of a conversation, as `Monkey.answer_messages` does."""
        inputs = self.prepare_messages(messages, prompt, grid)
        return self.generate(inputs, max_new_tokens, **options)[0]

    def stream_messages(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        prompt: str | None = None,
        max_new_tokens: int = 128,
        grid: GridInput | None = None,
        **options: Any,
    ) -> AnswerStream:
        """Answer as `answer_messages` does, part by part as in `stream`."""
        return self._stream(self.prepare_messages(messages, prompt, grid), max_new_tokens, options)

    def prepare_encoded(
        self,
        images: Sequence[Any],
        texts: Sequence[Content],
        prompt: str | None = None,
        grid: GridInput | None = None,
    ) -> Mapping[str, Any]:
        """Return model inputs as `prepare` does: with views, which are encoded with each answer."""
        return self.prepare(images, texts, prompt, grid)

    def encode(
        self, images: Sequence[ImageInput], grid: GridInput | None = None, use_lora: bool = True
    ) -> Any:
        """Refuse: a raised model encodes images in its base's own way.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "a raised model encodes images in its base's own way: ask it by `answer` or `session`"
        )

    def session(
        self, image: ImageInput | Sequence[ImageInput], grid: GridInput | None = None
    ) -> RaisedSession:
        """Return a session about an image, or about several that stand in front of each question.

        The image is opened and encoded once, however many questions follow. The language model reads it with
        each of them: where it stands in a prompt is up to the base's chat template.

        Raises:
            ValueError: the model takes no encoded images, an image that cannot be read, or no adapters for
                the tiles of the grid.
        """
        if not self.has_sessions:
            raise ValueError(
                f"{type(self.model).__name__} generates in a way of its own, which encodes an image with "
                "each question, so it has no sessions: call `answer_batch` and `chat` of the model itself"
            )
        images = list(image) if isinstance(image, list | tuple) else [image]
        if not images or None in images:
            raise ImageError(
                "unsupported", f"there is no image, got {image}: ask without one by `answer_messages`"
            )
        opened = [open_image(one) for one in images]
        encoded = [
            encode_views(self.model, self.conversations, one, self.select_grid(one.size, grid))
            for one in opened
        ]
        return RaisedSession(self.model, self.conversations, encoded)

    def prepare(
        self,
        images: Sequence[Any],
        texts: Sequence[Content],
        prompt: str | None = None,
        grid: GridInput | None = None,
    ) -> BatchFeature:
        """Return model inputs of a batch, padded on the left, on the model's device; as `Monkey.prepare`."""
        conversations = [
            [Message("user", (*_as_parts(image), *_as_content(text)))]
            for image, text in zip(images, texts, strict=True)
        ]
        return self.prepare_conversations(
            [self.conversations.wrap(messages, prompt) for messages in conversations], grid
        )

    def prepare_messages(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        prompt: str | None = None,
        grid: GridInput | None = None,
    ) -> BatchFeature:
        """Return model inputs of a conversation; arguments as in `answer_messages`."""
        wrapped = self.conversations.wrap(read_messages(messages), prompt or self.default_prompt)
        return self.prepare_conversations([wrapped], grid)

    def prepare_conversations(
        self, conversations: Sequence[Sequence[Message]], grid: GridInput | None = None
    ) -> BatchFeature:
        """Return model inputs of conversations whose prompts are wrapped already (`Conversations.wrap`)."""
        inputs = self.conversations.prepare(conversations, self.limit_grid(grid))
        self._check_context(inputs)
        return inputs.to(self.model.device, self.model.dtype)

    def save(self, folder: str | Path, name: str | None = None) -> None:
        """Write what was learned into a new folder, which `load_model` reads; see `Raised.save`.

        Args:
            folder: to be made.
            name: of no use here: the card names the base.

        Raises:
            FileExistsError: there is something already.
        """
        self._as_raised().save(folder)

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        token: str | None = None,
        base: str | None = None,
    ) -> str:
        """Put on the hub what `save` writes, and return its address; arguments as of `Raised.push_to_hub`.

        Raises:
            ValueError: the base is a folder and `base` is not given, or `base` is no name of a hub.
        """
        return self._as_raised().push_to_hub(repo_id, private, token, base)

    def _as_raised(self) -> Raised:
        return Raised(self.model, self.processor, self.model.raising_settings)


def _as_parts(image: Any) -> list[ImagePart]:
    """Return an image, a list of images, or None as parts of a message."""
    if image is None:
        return []
    images = image if isinstance(image, list | tuple) else [image]
    return [ImagePart(one) for one in images]


def _as_content(content: Content) -> list[Part]:
    """Return a text, or texts and images in their order, as parts of a message."""
    parts = [content] if isinstance(content, str) else content
    return [part if isinstance(part, str) else ImagePart(part) for part in parts]


def _rows_of_images(images: Sequence[Any]) -> dict[Any, list[int]]:
    """Return for each image, or list of images, the numbers of its rows.

    A file is the same by its path, anything else if it is the same object.
    """
    rows: dict[Any, list[int]] = {}
    for number, image in enumerate(images):
        parts = image if isinstance(image, list | tuple) else [image]
        key = tuple(str(part) if isinstance(part, str | Path) else id(part) for part in parts)
        rows.setdefault(key, []).append(number)
    return rows
