"""From images and prompts to the model's inputs.

An image becomes views: its tiles row by row, then the global view. In the prompt it becomes a span of
`<imgpad>` placeholders, one for each visual token (`prompts.PromptLayout`). The tokenizer never sees a
path, and `<img>` in a user's text stays text.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, BatchFeature, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
)

from monkeylib import chat_template as templates
from monkeylib import tiling
from monkeylib.chat_template import ChatText
from monkeylib.errors import choose, nearest, refuse_misspelled, shorten, unknown_name
from monkeylib.images import ImageInput, open_image
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.messages import ImagePart, Turns, lay_out, read_messages, replace_images
from monkeylib.model.config import MonkeyConfig, Views
from monkeylib.model.limits import check_size, check_sizes
from monkeylib.prompts import IMAGE_TOKENS, PromptLayout
from monkeylib.tiling import AutoGrid, GlobalFrom, Grid, as_grid, check_pixels, global_view, split_tiles

# Advice where a grid that follows the image's shape cannot be had.
_ONE_GRID = "give all images one grid of rows and columns, or set tile_overlap to 0"

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# `model_type` of a vision backbone -> mean and standard deviation of red, green and blue
_NORMALISATIONS = {
    "dinov2": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "siglip_vision_model": (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD),
}

# A text, or texts and images in their order.
Content = str | Sequence[str | ImageInput]
# A grid, the choice of one by each image's shape, or one of both as a text.
GridInput = Grid | AutoGrid | str

# transformers' names of the type of tensors that are returned.
TensorType = Literal["pt", "np"]
# Arguments of the processor beside its parts, and of the image processor.
_PROMPT_ARGUMENTS = ("queries", "separator", "image_tokens", "prompt_prefix")
_CALL_ARGUMENTS = ("grid", "padding_side", "padding", "max_length", "truncation", "return_tensors")
_IMAGE_ARGUMENTS = (
    "tile_size",
    "rows",
    "cols",
    "views",
    "image_mean",
    "image_std",
    "global_from",
    "resize_mode",
    "max_tiles",
    "tile_overlap",
)
# What transformers writes into the file of an image processor beside the arguments of its class.
_WRITTEN_BY_TRANSFORMERS = ("image_processor_type", "feature_extractor_type", "processor_class", "auto_map")


def normalisation(model_type: str) -> tuple[Sequence[float], Sequence[float]]:
    """Return mean and standard deviation of the pixels that a type of vision encoder was trained on.

    Monkey's own ViT uses CLIP's.
    """
    return _NORMALISATIONS.get(model_type, (CLIP_MEAN, CLIP_STD))


class MonkeyImageProcessor(BaseImageProcessor):
    """Resizes and normalises images and splits them into tiles, as the released code does.

    An image is resized to `rows * tile_size x cols * tile_size` pixels (Pillow bicubic) and split. With an
    overlap of tiles it is resized to what they cover together (`tiling.covered_side`).

    Args:
        tile_size: side of a tile, and of the global view, in pixels.
        rows, cols: grid of tiles.
        max_tiles: give each image the grid of its own shape, of at most so many tiles
            (`tiling.select_grid`), in place of `rows` and `cols`.
        views: "tiles+global", "tiles", or "global", where the image is resized straight to one view.
        image_mean, image_std: of red, green and blue, for values from 0 to 1.
        global_from: "resized" as in the released code, whose global view is made from the resized and
            normalised image (bicubic, no antialiasing), or "original" as the paper says (section 3.1), where
            the image itself is resized (Pillow bicubic).
        resize_mode: "stretch" as in the released code, which ignores the aspect ratio, or "pad" or "crop",
            which keep it as LLaVA-1.5 and CLIP do (`tiling.resize`).
        tile_overlap: pixels that neighbouring tiles share; none in the paper. Not with automatic grids.
    """

    model_input_names = ["pixel_values", "grids"]

    def __init__(
        self,
        tile_size: int = 448,
        rows: int = 2,
        cols: int = 2,
        views: Views = "tiles+global",
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        global_from: GlobalFrom = "resized",
        resize_mode: tiling.ResizeMode = "stretch",
        max_tiles: int | None = None,
        tile_overlap: int = 0,
        **kwargs: Any,
    ) -> None:
        for name in kwargs.keys() - set(_WRITTEN_BY_TRANSFORMERS):
            hint = nearest(name, _IMAGE_ARGUMENTS)
            raise TypeError(f"an image processor has no argument {name!r}; {hint}".rstrip("; "))

        super().__init__(**kwargs)
        check_sizes({"tile_size": tile_size, "rows": rows, "cols": cols, "max_tiles": max_tiles})
        choose("setting of views", views, get_args(Views))
        choose("source of the global view", global_from, get_args(GlobalFrom))
        tiling.check_resize_mode(resize_mode)
        tiling.check_overlap(tile_overlap, tile_size)
        if tile_overlap and max_tiles is not None:
            raise ValueError(
                f"an automatic grid has no overlap of tiles, got {tile_overlap} pixels: {_ONE_GRID}"
            )
        _check_channels("image_mean", image_mean, minimum=0)
        # Pixels are divided by it.
        _check_channels("image_std", image_std, minimum=1e-6)

        self.tile_size = tile_size
        self.rows = rows
        self.cols = cols
        self.max_tiles = max_tiles
        self.tile_overlap = tile_overlap
        self.views = views
        self.global_from = global_from
        self.resize_mode = resize_mode
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)

    @classmethod
    def from_dict(cls, image_processor_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """Build an image processor of saved settings, other ones in `kwargs` in place of theirs.

        transformers would set the latter unchecked.
        """
        arguments = {name: kwargs.pop(name) for name in _IMAGE_ARGUMENTS if name in kwargs}
        return super().from_dict({**image_processor_dict, **arguments}, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings; the file of a processor like the paper's does not mention an overlap."""
        settings = super().to_dict()
        if not self.tile_overlap:
            settings.pop("tile_overlap", None)
        return settings

    @property
    def grid(self) -> Grid | AutoGrid:
        """The grid of an image, or the choice of one by its shape; (0, 0) if it has only the global view."""
        if self.views == "global":
            return Grid(0, 0)
        return Grid(self.rows, self.cols) if self.max_tiles is None else AutoGrid(self.max_tiles)

    @property
    def has_auto_grid(self) -> bool:
        """Whether the grid of an image follows its shape."""
        return isinstance(self.grid, AutoGrid)

    def select_grid(self, size: tuple[int, int], grid: GridInput | None = None) -> Grid:
        """Return the grid of an image.

        Args:
            size: width and height of the image in pixels.
            grid: another grid than the processor's. An automatic one without a number of tiles has at most
                as many as the processor gives an image.

        Raises:
            ValueError: `grid` is none, or its tiles have too many pixels.
        """
        grid = self.grid if grid is None else as_grid(grid)
        if isinstance(grid, AutoGrid):
            if self.tile_overlap:
                raise ValueError(
                    f"an automatic grid has no overlap of tiles, this processor's overlap by "
                    f"{self.tile_overlap} pixels: {_ONE_GRID}"
                )
            max_tiles = grid.max_tiles or self.max_tiles or self.rows * self.cols
            grid = tiling.select_grid(*size, self.tile_size, max_tiles, grid.within)

        # A grid of the command line may be any.
        check_pixels(*grid, self.tile_size)
        return grid

    def view_count(self, grid: Grid) -> int:
        """Return the number of views of an image with this grid."""
        tiles = grid[0] * grid[1]
        has_global_view = self.views != "tiles" or tiles == 0
        return tiles + int(has_global_view)

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput],
        grid: GridInput | Sequence[Grid] | None = None,
        return_tensors: TensorType = "pt",
    ) -> BatchFeature:
        """Return `pixel_values [V, 3, tile_size, tile_size]` and `grids [images, 2]`.

        Args:
            images: one image or several.
            grid: another grid than the processor's for these images (`select_grid`), or one for each.
            return_tensors: "pt" for PyTorch or "np" for NumPy.

        Raises:
            ValueError: an image that cannot be read, no image, or an impossible grid.
        """
        return self.preprocess(images, grid, return_tensors)

    def preprocess(
        self,
        images: ImageInput | Sequence[ImageInput],
        grid: GridInput | Sequence[Grid] | None = None,
        return_tensors: TensorType = "pt",
    ) -> BatchFeature:
        """Prepare images as calling the processor does."""
        check_tensor_type(return_tensors)
        images = list(images) if isinstance(images, list | tuple) else [images]
        if not images:
            raise ValueError("there is no image to prepare: pass one or more")

        # One grid for all images, or a list of as many.
        grids = grid if _is_grid_list(grid) else [grid] * len(images)
        if len(grids) != len(images):
            raise ValueError(
                f"got {len(images)} images and {len(grids)} grids: pass one grid, or one for each"
            )

        # Opened one after the other: views are smaller than the images that they are made of.
        views, grid_rows = [], []
        for image, choice in zip(images, grids, strict=True):
            opened = open_image(image)
            grid_of_image = self.select_grid(opened.size, choice)
            views.append(self._views(opened, grid_of_image))
            grid_rows.append(list(grid_of_image))

        pixel_values = views[0] if len(views) == 1 else torch.cat(views)
        features = {"pixel_values": pixel_values, "grids": torch.tensor(grid_rows)}
        return BatchFeature(_convert(features, return_tensors))

    def _views(self, image: Image.Image, grid: Grid) -> torch.Tensor:
        """Return the views `[views, 3, tile_size, tile_size]` of one image, the global view last."""
        if not grid.tiles:
            return self._pixels(image, 1, 1)[None]

        # `[3, height, width]` -> `[tiles, 3, tile_size, tile_size]`, row by row, each written in its place
        pixels = self._pixels(image, *grid)
        views = torch.empty(self.view_count(grid), 3, self.tile_size, self.tile_size)
        split_tiles(pixels, self.tile_size, self.tile_overlap, out=views[: grid.tiles])
        if self.views == "tiles":
            return views

        # The paper resizes the original image (section 3.1), the released code the resized one.
        if self.global_from == "original":
            views[-1] = self._pixels(image, 1, 1)
        else:
            views[-1] = global_view(pixels, self.tile_size)
        return views

    def _pixels(self, image: Image.Image, rows: int, cols: int) -> torch.Tensor:
        """Return an image as normalised values `[3, height, width]`, of the size that its tiles cover."""
        height, width = (
            tiling.covered_side(tiles, self.tile_size, self.tile_overlap) for tiles in (rows, cols)
        )
        resized = tiling.resize(image, width, height, self.resize_mode, self.image_mean)

        # [height, width, 3] bytes -> [3, height, width] from 0 to 1. Channel by channel in memory, while they
        # are bytes: every step that follows would else read pixels three apart.
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous().float().div_(255)
        mean = torch.tensor(self.image_mean)[:, None, None]
        std = torch.tensor(self.image_std)[:, None, None]
        return pixels.sub_(mean).div_(std)


class MonkeyProcessor(ProcessorMixin):
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
        refuse_misspelled("a processor has no argument", kwargs, (*_PROMPT_ARGUMENTS, *_IMAGE_ARGUMENTS))

        # transformers would take them for fields of the model.
        arguments = {name: kwargs.pop(name) for name in _PROMPT_ARGUMENTS if name in kwargs}
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if not arguments:
            return processor

        settings = {name: getattr(processor, name) for name in (*_PROMPT_ARGUMENTS, "chat_template")}
        return cls(processor.image_processor, processor.tokenizer, **{**settings, **arguments})

    @property
    def chat_template(self) -> str | dict[str, str]:
        """The Jinja template that writes the text of a conversation: Monkey's own, unless it is replaced."""
        if self._chat_template is not None:
            return self._chat_template
        return templates.build_template(
            self.separator, self.prompt_prefix, self._image_text, self.tokenizer.eos_token
        )

    @chat_template.setter
    def chat_template(self, template: str | dict[str, str] | None) -> None:
        # Monkey's own is written anew, by the prompts of this version and the settings of this processor.
        self._chat_template = None if templates.is_own(template) else template

    @property
    def _image_text(self) -> str:
        """An image in the text of a conversation: its tokens around one placeholder."""
        start, end = self.image_tokens[:-1] or ("", "")
        return f"{start}{self.image_token}{end}"

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
        opened_images: list[Image.Image] = []
        grids: list[Grid] = []

        for content, leading_images in _pair(text, images):
            parts = _open_images(content, leading_images)
            images_of_text = [part for part in parts if not isinstance(part, str)]
            grids_of_text = [self.image_processor.select_grid(image.size, grid) for image in images_of_text]
            opened_images += images_of_text
            grids += grids_of_text

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
        if opened_images:
            features = {**features, **self.image_processor(opened_images, grids)}
        return BatchFeature(_convert(dict(features), return_tensors))

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
        places = _images_of(content.turns)
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

    # Conversations

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        prompt: str = templates.DEFAULT_PROMPT,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: TensorType | Literal["auto"] = "auto",
        processor_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Return the text of a conversation, or with `tokenize=True` its ids or the model's inputs.

        Ids are those of the same conversation in training and in `Monkey.answer_messages`: the text of
        messages is text, whatever markup stands in it.

        Args:
            conversation: messages as `messages.read_messages` takes them, which may end with an answer, or a
                list of such conversations. Images may be missing where they aren't tokenized.
            chat_template: another template, or the name of one, for the text alone.
            prompt: name of the prompt around the user's texts.
            add_generation_prompt: without effect, since the prompt of a question ends where its answer
                begins.
            continue_final_message: leave the last answer open, to be completed.
            return_assistant_tokens_mask: also return `assistant_masks [B, T]`, 1 on answers and the end of
                text that closes each.
            tokenize: make ids of it.
            return_dict: return all inputs of the model, not `input_ids` alone.
            return_tensors: as in calling the processor.
            processor_kwargs: arguments of calling the processor, such as `grid` and `padding`.
            options: the same, or variables of another template.

        Returns:
            A text, or a list of texts for a list of conversations; with `tokenize=True` tensors `[B, T]`, or
            a dictionary of them.

        Raises:
            ValueError: as `messages.read_messages`, or another template where ids are asked for.
            TypeError: an argument that the processor doesn't take.
        """
        is_batch = _is_batch(conversation)
        conversations = list(conversation) if is_batch else [conversation]
        template = self.chat_template if chat_template is None else chat_template
        if isinstance(template, dict):
            template = template.get("default")

        if not templates.is_own(template):
            if tokenize:
                raise ValueError(
                    "this chat template isn't Monkey's own, which alone gives the ids that Monkey was "
                    "trained with: leave chat_template out and name a prompt, such as prompt='caption', or "
                    "take the text with tokenize=False"
                )
            return super().apply_chat_template(
                conversation,
                chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **options,
            )

        given = {**(processor_kwargs or {}), **options}
        arguments = {name: value for name, value in given.items() if value is not None}
        if unknown := arguments.keys() - set(_CALL_ARGUMENTS):
            name = min(unknown)
            hint = nearest(name, _CALL_ARGUMENTS)
            raise TypeError(f"the processor takes no argument {name!r}; {hint}".rstrip("; "))

        texts, images = [], []
        for messages in conversations:
            read = read_messages(messages, accepts_answer=True, accepts_missing_images=not tokenize)
            turns = _open_answer(lay_out(read, prompt, self.separator), continue_final_message)
            eos_token = self.tokenizer.eos_token
            texts.append(templates.write_text(turns, self._image_text, self.prompt_prefix, eos_token))
            images.append([part.source for part in _images_of(turns)])
        if not tokenize:
            return texts if is_batch else texts[0]

        if return_tensors != "auto":
            arguments["return_tensors"] = return_tensors
        features = self(images=images, text=texts, **arguments)
        if return_assistant_tokens_mask:
            features["assistant_masks"] = self._mask_answers(texts, features)
        return features if return_dict else features["input_ids"]

    def _mask_answers(self, texts: Sequence[ChatText], features: Mapping[str, Any]) -> Any:
        """Return 1 on the answers of conversations and the ends of text that close them, 0 elsewhere.

        Args:
            texts: of the conversations.
            features: what they have become, with `attention_mask [B, T]`.

        Returns:
            `[B, T]`, of the type of the attention mask.
        """
        attention = torch.as_tensor(features["attention_mask"])
        places = torch.as_tensor(features["input_ids"]) == self.image_token_id
        masks = torch.zeros_like(attention)

        for row, text in enumerate(texts):
            # How many visual tokens an image has doesn't matter: answers have none, and lie between texts.
            answered = [(replace_images(parts, _zeros()), answer) for parts, answer in text.turns.answered]
            labels = self.layout.encode_conversation([], answered).labels if answered else []
            last = self.layout.parts_ids(replace_images(text.turns.last, _zeros()))
            mask = torch.tensor([int(label != IGNORE_INDEX) for label in labels] + [0] * len(last))

            is_text = (attention[row] == 1) & ~places[row]
            masks[row, is_text] = mask[: int(is_text.sum())].to(masks.dtype)
        return masks if torch.is_tensor(features["attention_mask"]) else masks.numpy()


def _is_batch(conversation: Any) -> bool:
    """Tell a list of conversations from one conversation."""
    return (
        isinstance(conversation, list | tuple)
        and bool(conversation)
        and isinstance(conversation[0], list | tuple)
    )


def _images_of(turns: Turns) -> list[ImagePart]:
    """Return the images of a conversation in their order."""
    prompts = [*(parts for parts, _ in turns.answered), turns.last]
    return [part for parts in prompts for part in parts if isinstance(part, ImagePart)]


def _open_answer(turns: Turns, is_open: bool) -> Turns:
    """Return a conversation whose last answer, if that is asked for, is a beginning to be completed.

    Raises:
        ValueError: it ends with a question.
    """
    if not is_open:
        return turns
    if not turns.answered or turns.last:
        raise ValueError(
            "continue_final_message needs a conversation whose last message is of the assistant: this one "
            "ends with a question"
        )
    *earlier, (parts, answer) = turns.answered
    return Turns(earlier, (*parts, answer))


def _zeros() -> Iterator[int]:
    """Yield 0 forever."""
    return itertools.repeat(0)


# --- keywords


def _check_channels(name: str, values: Any, minimum: float) -> None:
    """Check a number for red, green and blue each, by which pixels from 0 to 1 are normalised.

    Raises:
        ValueError: they are not three numbers from `minimum` to 1.
    """
    are_numbers = isinstance(values, list | tuple) and all(
        isinstance(value, int | float) and minimum <= value <= 1 for value in values
    )
    if not are_numbers or len(values) != 3:
        raise ValueError(
            f"{name} is {shorten(values)}: expected three numbers from {minimum:g} to 1, one for each colour"
        )


def check_tensor_type(return_tensors: str) -> None:
    """Check transformers' name of a type of tensors.

    Raises:
        ValueError: PyTorch and NumPy are the only ones.
    """
    types = get_args(TensorType)
    if return_tensors not in types:
        raise unknown_name("type of tensors", return_tensors, types)


def _convert(tensors: dict[str, torch.Tensor], return_tensors: TensorType) -> dict[str, Any]:
    if return_tensors == "pt":
        return tensors
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _is_grid_list(grid: Any) -> bool:
    """Tell a list of grids from one grid, which may be a list of two numbers."""
    return isinstance(grid, list | tuple) and not isinstance(grid, Grid) and not _are_numbers(grid)


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int) for value in values)


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


def _open_images(content: Content, leading_images: list[ImageInput]) -> list[str | Image.Image]:
    """Return texts and opened images in their order.

    Raises:
        TypeError: the content is no text and no flat list of texts and images.
    """
    if not isinstance(content, str | list | tuple):
        raise TypeError(f"a text is {_describe(content)}: pass a text, or a list of texts and images")

    # The parts of a conversation are in its layout.
    if isinstance(content, ChatText):
        return [open_image(image) for image in leading_images]

    parts = [content] if isinstance(content, str) else content
    for part in parts:
        if isinstance(part, list | tuple) or part is None:
            raise TypeError(
                f"a text holds {_describe(part)}: pass texts and images in one flat list for each prompt"
            )

    return [
        *(open_image(image) for image in leading_images),
        *(part if isinstance(part, str) else open_image(part) for part in parts),
    ]


def _describe(value: Any) -> str:
    """Return what a value is, for a message."""
    if value is None:
        return "None"
    if isinstance(value, list | tuple):
        return "a list"
    return f"of type {type(value).__name__} ({shorten(str(value))})"


# So that `MonkeyProcessor.from_pretrained` and `AutoProcessor` find the image processor by the model's type;
# `exist_ok`: `integrations.transformers` has named them before.
AutoImageProcessor.register(
    MonkeyConfig, image_processor_classes={"pil": MonkeyImageProcessor}, exist_ok=True
)
AutoProcessor.register(MonkeyConfig, MonkeyProcessor, exist_ok=True)
