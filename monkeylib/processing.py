"""From images and prompts to the model's inputs.

An image becomes views (`image_processor`): its tiles row by row, then the global view. In the prompt it
becomes a span of `<imgpad>` placeholders, one for each visual token (`prompts.PromptLayout`). The tokenizer
never sees a path, and `<img>` in a user's text stays text.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Literal

from PIL import Image
from transformers import AutoProcessor, BatchFeature

from monkeylib.chat_processor import ChatProcessor, images_of
from monkeylib.chat_template import ChatText
from monkeylib.errors import choose, refuse_misspelled, shorten, unknown_name
from monkeylib.image_processor import (
    IMAGE_ARGUMENTS,
    GridInput,
    MonkeyImageProcessor,
    TensorType,
    check_tensor_type,
    convert_tensors,
)
from monkeylib.images import ImageInput, JpegFile
from monkeylib.messages import replace_images
from monkeylib.model.config import MonkeyConfig
from monkeylib.model.limits import check_size, check_sizes
from monkeylib.model.normalisation import CLIP_MEAN, CLIP_STD, normalisation
from monkeylib.prompts import IMAGE_TOKENS, PromptLayout
from monkeylib.tiling import AutoGrid, Grid, as_grid

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "Content",
    "GridInput",
    "MonkeyImageProcessor",
    "MonkeyProcessor",
    "TensorType",
    "check_tensor_type",
    "normalisation",
]

# A text, or texts and images in their order.
Content = str | Sequence[str | ImageInput]

# Arguments of the processor beside its parts.
_PROMPT_ARGUMENTS = ("queries", "separator", "image_tokens", "prompt_prefix")


class MonkeyProcessor(ChatProcessor):
    """Turns images and prompts into `input_ids`, `attention_mask`, `pixel_values` and `grids`.

    Args:
        image_processor: prepares the images.
        tokenizer: of the language model; it must hold the image tokens.
        queries: number of visual tokens per view.
        separator: stands between an image and text right after it; the released checkpoints were trained
            with a blank there (`prompts.SEPARATOR`).
        image_tokens: the tokens before and after an image, and that of its placeholders; LLaVA-1.5 has only
            the last.
        prompt_prefix: begins every prompt. Unlike in a user's text, special tokens count in it: LLaVA-1.5's
            Vicuna was trained with `<s>` there, Qwen with nothing.
        chat_template: another Jinja template than Monkey's own (`monkeylib.chat_template`), for the text of
            conversations.

    Raises:
        ValueError: the tokenizer lacks an image token, or an argument is of another type.
    """

    def __init__(
        self,
        image_processor: MonkeyImageProcessor,
        tokenizer: Any,
        queries: int = 256,
        separator: str = "",
        image_tokens: Sequence[str] = IMAGE_TOKENS,
        prompt_prefix: str = "",
        chat_template: str | dict[str, str] | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        check_sizes({"queries": queries})
        for name, text in (("separator", separator), ("prompt_prefix", prompt_prefix)):
            if not isinstance(text, str):
                raise ValueError(f"{name} is {shorten(text)}: expected a text, which may be empty")

        is_list = isinstance(image_tokens, list | tuple)
        if not is_list or len(image_tokens) not in (1, 3):
            raise ValueError(
                f"image_tokens is {shorten(image_tokens)}: expected the tokens before and after an image and "
                "that of its placeholders, or the last alone"
            )

        self.queries = queries
        self.separator = separator
        self.image_tokens = list(image_tokens)
        self.prompt_prefix = prompt_prefix

        # Ids of `<img>`, `</img>` and `<imgpad>`; LLaVA-1.5 has only a placeholder.
        ids = tokenizer.convert_tokens_to_ids(self.image_tokens)
        if None in ids or tokenizer.unk_token_id in ids:
            raise ValueError(
                f"the tokenizer must hold the tokens {', '.join(image_tokens)}, it gives the ids {ids}"
            )

        *boundary_ids, self.image_token_id = ids
        self.image_start_id, self.image_end_id = boundary_ids or (None, None)
        self.image_token = self.image_tokens[-1]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> "MonkeyProcessor":
        """Load a processor from a folder.

        Arguments of this class and of the image processor may be given in place of those in the folder.

        Raises:
            TypeError: the name of an argument is almost one of these.
        """
        # Others are transformers' own, or of the tokenizer.
        refuse_misspelled("a processor has no argument", kwargs, (*_PROMPT_ARGUMENTS, *IMAGE_ARGUMENTS))

        # transformers would take them for fields of the model.
        arguments = {name: kwargs.pop(name) for name in _PROMPT_ARGUMENTS if name in kwargs}
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if not arguments:
            return processor

        settings = {name: getattr(processor, name) for name in (*_PROMPT_ARGUMENTS, "chat_template")}
        return cls(processor.image_processor, processor.tokenizer, **{**settings, **arguments})

    @property
    def layout(self) -> PromptLayout:
        """The layout by which prompts of this processor become ids."""
        return PromptLayout(
            self.tokenizer,
            placeholder_id=self.image_token_id,
            image_start_id=self.image_start_id,
            image_end_id=self.image_end_id,
            prefix=self.prompt_prefix,
            separator=self.separator,
        )

    def visual_tokens(self, grid: GridInput | None = None, size: tuple[int, int] | None = None) -> int:
        """Return the number of visual tokens of one image.

        Args:
            grid: another grid than the processor's.
            size: width and height of the image, on which an automatic grid depends.

        Raises:
            ValueError: its tiles have too many pixels, or an automatic grid without a size.
        """
        images = self.image_processor
        grid = images.grid if grid is None else as_grid(grid)
        if isinstance(grid, AutoGrid) and size is None:
            raise ValueError(
                "the number of visual tokens depends on the shape of the image, since its grid is chosen by "
                "it: pass the size of the image, or a grid"
            )
        return images.view_count(images.select_grid(size or (1, 1), grid)) * self.queries

    def image_ids(self, grid: GridInput | None = None) -> list[int]:
        """Return the ids of one image in a prompt; `grid` as in `visual_tokens`."""
        return self.layout.image_ids(self.visual_tokens(grid))

    def __call__(
        self,
        images: ImageInput | Sequence[Any] | None = None,
        text: Content | Sequence[Content] = "",
        prompt: str | None = None,
        grid: GridInput | None = None,
        padding_side: Literal["left", "right"] = "left",
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool | str = False,
        add_special_tokens: bool = False,
        return_tensors: TensorType = "pt",
        prepares_images: bool = True,
    ) -> BatchFeature:
        """Prepare one prompt or a batch.

        Args:
            images: with one text, its image or images; with a list of texts, for each text an image, a list
                of images, or None.
            text: a text, or a list of texts. Images come before the text; a text that is itself a list of
                texts and images (Pillow, array or `Path`) keeps their order; the text of a conversation from
                `apply_chat_template` takes them at its places.
            prompt: name of the prompt around each text (see `prompts.PROMPTS`); without one, texts stand as
                they are.
            grid: another grid than the processor's; "auto" chooses one by the shape of each image
                (`MonkeyImageProcessor.select_grid`).
            padding_side: "left" to generate, "right" to train.
            padding: True or "longest" pads to the longest prompt, "max_length" to `max_length`; False does
                not pad, and then all prompts need one length.
            max_length: the most tokens of a prompt.
            truncation: True cuts the end of a longer prompt off, but no visual tokens; False refuses it.
            add_special_tokens: always False: the special tokens of a prompt are those of its images and those
                in the processor's `prompt_prefix`.
            return_tensors: "pt" for PyTorch or "np" for NumPy.
            prepares_images: False to leave images as they are opened: `images` and `grids` are then lists of
                those of each text, and there are no `pixel_values`.

        Raises:
            ValueError: not as many entries in `images` as texts, an image that cannot be read, a prompt that
                is too long, or as `PromptLayout.encode`.
            TypeError: an entry that is neither text nor image.
        """
        check_tensor_type(return_tensors)
        if images is None and text == "" and prompt is None and not self.prompt_prefix:
            raise ValueError("there is nothing to prepare: pass a text, images, or both")
        if padding_side not in ("left", "right"):
            raise unknown_name("side of padding", padding_side, ("left", "right"))
        padding = _check_padding(padding, max_length)
        is_truncated = _check_truncation(truncation, max_length)
        if add_special_tokens:
            raise ValueError(
                "add_special_tokens=True: a prompt has no special tokens but those of its images; put others "
                "into the prompt_prefix of the processor"
            )

        rows: list[list[int]] = []
        opened_images: list[list[Image.Image | JpegFile]] = []
        grids: list[list[Grid]] = []

        for content, leading_images in _pair(text, images):
            parts = _open_images(content, leading_images, self.image_processor.open)
            images_of_text = [part for part in parts if not isinstance(part, str)]
            grids_of_text = [self.image_processor.select_grid(image.size, grid) for image in images_of_text]
            opened_images.append(images_of_text)
            grids.append(grids_of_text)

            ids = self._encode(content, parts, grids_of_text, prompt)
            rows.append(ids if max_length is None else self._limit(ids, max_length, is_truncated))

        if padding == "do_not_pad" and len({len(ids) for ids in rows}) > 1:
            raise ValueError(
                "the prompts have different lengths, which make no tensor without padding: pass padding=True"
            )

        # Also gives the attention mask, 0 on padding.
        features = self.tokenizer.pad(
            {"input_ids": rows},
            padding=padding,
            max_length=max_length if padding == "max_length" else None,
            padding_side=padding_side,
            return_tensors="pt",
        )
        if not prepares_images:
            tensors = convert_tensors(dict(features), return_tensors)
            return BatchFeature({**tensors, "images": opened_images, "grids": grids})
        if any(opened_images):
            flat_images, flat_grids = list(chain(*opened_images)), list(chain(*grids))
            features = {**features, **self.image_processor(flat_images, flat_grids)}
        return BatchFeature(convert_tensors(dict(features), return_tensors))

    def _encode(
        self, content: Content, parts: Sequence[Any], grids: Sequence[Grid], prompt: str | None
    ) -> list[int]:
        """Return the ids of one prompt.

        Args:
            content: as the caller gave it.
            parts: its texts and images in their order.
            grids: of its images.
            prompt: name of the prompt around the texts.

        Raises:
            ValueError: as many images as a conversation has places are needed, or as `PromptLayout.encode`.
        """
        # To the layout, an image is the number of its visual tokens.
        visual_tokens = iter([self.visual_tokens(grid) for grid in grids])
        if not isinstance(content, ChatText):
            counted = [part if isinstance(part, str) else next(visual_tokens) for part in parts]
            return self.layout.encode(counted, prompt)

        if prompt is not None:
            raise ValueError(
                f"prompt={prompt!r} and the text of a conversation, which has its prompt already: pass it to "
                "apply_chat_template"
            )
        places = images_of(content.turns)
        if len(places) != len(grids):
            raise ValueError(
                f"the conversation has {len(places)} places for images, got {len(grids)}: pass for each text "
                "a list of its images"
            )
        answered = [
            (replace_images(parts, visual_tokens), answer) for parts, answer in content.turns.answered
        ]
        return self.layout.encode_turns(answered, replace_images(content.turns.last, visual_tokens))

    def _limit(self, ids: list[int], max_length: int, is_truncated: bool) -> list[int]:
        """Return the ids of a prompt that may have `max_length` tokens, cut at their end if that is allowed.

        Raises:
            ValueError: the prompt is too long, or would lose visual tokens.
        """
        if len(ids) <= max_length:
            return ids

        cut = ids[max_length:]
        if not is_truncated:
            raise ValueError(
                f"the prompt has {len(ids):,} tokens, max_length is {max_length:,}: shorten it, raise "
                "max_length, or cut its end off with truncation=True"
            )
        if self.image_token_id in cut or self.image_end_id in cut:
            raise ValueError(
                f"max_length={max_length:,} would cut off visual tokens of the prompt, which has "
                f"{len(ids):,} tokens: raise max_length, or take fewer tiles"
            )
        return ids[:max_length]


# --- keywords


def _check_padding(padding: bool | str, max_length: int | None) -> str:
    """Return how prompts are padded, by transformers' name.

    Raises:
        ValueError: an unknown way, or no positive length to pad to.
    """
    if max_length is not None:
        check_size("max_length", max_length, 2**31)

    if isinstance(padding, bool):
        return "longest" if padding else "do_not_pad"
    choose("way of padding", padding, ("longest", "max_length", "do_not_pad"))
    if padding == "max_length" and max_length is None:
        raise ValueError('padding="max_length" needs a max_length: pass one, or padding=True')
    return padding


def _check_truncation(truncation: bool | str, max_length: int | None) -> bool:
    """Return whether longer prompts are cut.

    Raises:
        ValueError: an unknown way, or no length to cut them to.
    """
    if not isinstance(truncation, bool):
        choose("way of truncation", truncation, ("longest_first", "only_first", "do_not_truncate"))
        truncation = truncation != "do_not_truncate"
    if truncation and max_length is None:
        raise ValueError("truncation needs a max_length: pass one, or leave truncation out")
    return truncation


# --- texts and images


def _pair(text: Content | Sequence[Content], images: Any) -> list[tuple[Content, list[ImageInput]]]:
    """Return each text with the images that come before it.

    Raises:
        ValueError: there is no text, or not an entry in `images` for each.
        TypeError: `text` is neither text nor list.
    """
    if isinstance(text, str):
        return [(text, _as_list(images, "the images of one text"))]
    if not isinstance(text, list | tuple):
        raise TypeError(f"text is {_describe(text)}: pass a text or a list of texts")
    if not text:
        raise ValueError("text is an empty list: pass at least one text")

    # No images at all: texts alone.
    entries = list(images) if isinstance(images, list | tuple) else [images] if images is not None else []
    entries = entries or [None] * len(text)
    if len(entries) != len(text):
        raise ValueError(
            f"got {len(text)} texts and {len(entries)} entries in images: "
            "pass for each text an image, a list of images, or None"
        )

    return [
        (content, _as_list(entry, f"entry {number} of images"))
        for number, (content, entry) in enumerate(zip(text, entries, strict=True), 1)
    ]


def _as_list(images: Any, name: str) -> list[ImageInput]:
    """Return no image, one image or several as a list; `name` stands for them in messages."""
    if images is None:
        return []
    if not isinstance(images, list | tuple):
        return [images]

    for image in images:
        if isinstance(image, list | tuple) or image is None:
            raise TypeError(
                f"{name} hold {_describe(image)}: pass images in one flat list for each text, and a list of "
                "such lists only with a list of texts"
            )
    return list(images)


def _open_images(
    content: Content, leading_images: list[ImageInput], open: Callable[[ImageInput], Any]
) -> list[str | Any]:
    """Return texts and opened images in their order.

    Args:
        content: as the caller gave it.
        leading_images: the images before it.
        open: opens an image.

    Raises:
        TypeError: the content is no text and no flat list of texts and images.
    """
    if not isinstance(content, str | list | tuple):
        raise TypeError(f"a text is {_describe(content)}: pass a text, or a list of texts and images")

    # The parts of a conversation are in its layout.
    if isinstance(content, ChatText):
        return [open(image) for image in leading_images]

    parts = [content] if isinstance(content, str) else content
    for part in parts:
        if isinstance(part, list | tuple) or part is None:
            raise TypeError(
                f"a text holds {_describe(part)}: pass texts and images in one flat list for each prompt"
            )

    return [
        *(open(image) for image in leading_images),
        *(part if isinstance(part, str) else open(part) for part in parts),
    ]


def _describe(value: Any) -> str:
    """Return what a value is, for a message."""
    if value is None:
        return "None"
    if isinstance(value, list | tuple):
        return "a list"
    return f"of type {type(value).__name__} ({shorten(str(value))})"


# So that `MonkeyProcessor.from_pretrained` and `AutoProcessor` find it by the model's type; `exist_ok`:
# `integrations.transformers` has named it before.
AutoProcessor.register(MonkeyConfig, MonkeyProcessor, exist_ok=True)
