"""From images and prompts to the model's inputs.

An image becomes views: its tiles row by row, then the global view. In the prompt it becomes a span of
`<imgpad>` placeholders, one for each visual token (`prompts.PromptLayout`). The tokenizer never sees a
path, and `<img>` in a user's text stays text.
"""

from collections.abc import Sequence
from typing import Any, get_args

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

from monkeylib import tiling
from monkeylib.errors import choose
from monkeylib.images import ImageInput, open_image
from monkeylib.model.config import MonkeyConfig, Views
from monkeylib.model.limits import check_sizes
from monkeylib.prompts import IMAGE_TOKENS, PromptLayout
from monkeylib.tiling import GlobalFrom, Grid, check_pixels, global_view, split_tiles

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# `model_type` of a vision backbone -> mean and standard deviation of red, green and blue
_NORMALISATIONS = {
    "dinov2": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "siglip_vision_model": (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD),
}

# A text, or texts and images in their order.
Content = str | Sequence[str | ImageInput]


def normalisation(model_type: str) -> tuple[Sequence[float], Sequence[float]]:
    """Return mean and standard deviation of the pixels that a type of vision encoder was trained on.

    Monkey's own ViT uses CLIP's.
    """
    return _NORMALISATIONS.get(model_type, (CLIP_MEAN, CLIP_STD))


class MonkeyImageProcessor(BaseImageProcessor):
    """Resizes and normalises images and splits them into tiles, as the released code does.

    An image is resized to `rows * tile_size x cols * tile_size` pixels (Pillow bicubic) and split.

    Args:
        tile_size: side of a tile, and of the global view, in pixels.
        rows, cols: grid of tiles.
        views: "tiles+global", "tiles", or "global", where the image is resized straight to one view.
        image_mean, image_std: of red, green and blue, for values from 0 to 1.
        global_from: "resized" as in the released code, whose global view is made from the resized and
            normalised image (bicubic, no antialiasing), or "original" as the paper says (section 3.1), where
            the image itself is resized (Pillow bicubic).
        resize_mode: "stretch" as in the released code, which ignores the aspect ratio, or "pad" or "crop",
            which keep it as LLaVA-1.5 and CLIP do (`tiling.resize`).
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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_sizes({"tile_size": tile_size, "rows": rows, "cols": cols})
        choose("setting of views", views, get_args(Views))
        choose("source of the global view", global_from, get_args(GlobalFrom))
        tiling.check_resize_mode(resize_mode)

        self.tile_size = tile_size
        self.rows = rows
        self.cols = cols
        self.views = views
        self.global_from = global_from
        self.resize_mode = resize_mode
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)

    @property
    def grid(self) -> Grid:
        """The grid of an image; (0, 0) if it has only the global view."""
        if self.views == "global":
            return Grid(0, 0)
        return Grid(self.rows, self.cols)

    def view_count(self, grid: Grid) -> int:
        """Return the number of views of an image with this grid."""
        tiles = grid[0] * grid[1]
        has_global_view = self.views != "tiles" or tiles == 0
        return tiles + int(has_global_view)

    def __call__(
        self, images: ImageInput | Sequence[ImageInput], grid: Grid | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Return `pixel_values [V, 3, tile_size, tile_size]` and `grids [images, 2]`.

        Args:
            images: one image or several.
            grid: another grid than the processor's for these images.
        """
        return self.preprocess(images, grid)

    def preprocess(self, images: ImageInput | Sequence[ImageInput], grid: Grid | None = None) -> BatchFeature:
        """Prepare images as calling the processor does."""
        images = images if isinstance(images, list | tuple) else [images]
        grid = self.grid if grid is None else Grid(*grid)
        # A grid of the command line may be any.
        check_pixels(*grid, self.tile_size)

        # Images may differ in size but not in grid. -> [V, 3, tile_size, tile_size]
        views = torch.cat([self._views(open_image(image), grid) for image in images])
        grids = torch.tensor([list(grid)] * len(images))
        return BatchFeature({"pixel_values": views, "grids": grids})

    def _views(self, image: Image.Image, grid: Grid) -> torch.Tensor:
        """Return the views `[views, 3, tile_size, tile_size]` of one image, the global view last."""
        if not grid.tiles:
            return self._pixels(image, 1, 1)[None]

        # `[3, rows * tile_size, cols * tile_size]` -> `[tiles, 3, tile_size, tile_size]`, row by row
        pixels = self._pixels(image, *grid)
        tiles = split_tiles(pixels, self.tile_size)
        if self.views == "tiles":
            return tiles

        # The paper resizes the original image (section 3.1), the released code the resized one.
        if self.global_from == "original":
            global_pixels = self._pixels(image, 1, 1)
        else:
            global_pixels = global_view(pixels, self.tile_size)

        return torch.cat([tiles, global_pixels[None]])

    def _pixels(self, image: Image.Image, rows: int, cols: int) -> torch.Tensor:
        """Return an image as normalised values `[3, rows * tile_size, cols * tile_size]`."""
        width, height = cols * self.tile_size, rows * self.tile_size
        resized = tiling.resize(image, width, height, self.resize_mode, self.image_mean)

        # [height, width, 3] bytes -> [3, height, width] from 0 to 1
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float().div_(255)
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

    Raises:
        ValueError: the tokenizer lacks an image token.
    """

    def __init__(
        self,
        image_processor: MonkeyImageProcessor,
        tokenizer: Any,
        queries: int = 256,
        separator: str = "",
        image_tokens: Sequence[str] = IMAGE_TOKENS,
        prompt_prefix: str = "",
    ) -> None:
        super().__init__(image_processor, tokenizer)
        check_sizes({"queries": queries})
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

    def visual_tokens(self, grid: Grid | None = None) -> int:
        """Return the number of visual tokens of one image.

        Args:
            grid: another grid than the processor's.

        Raises:
            ValueError: its tiles have too many pixels.
        """
        grid = self.image_processor.grid if grid is None else grid
        check_pixels(*grid, self.image_processor.tile_size)
        return self.image_processor.view_count(grid) * self.queries

    def image_ids(self, grid: Grid | None = None) -> list[int]:
        """Return the ids of one image in a prompt; `grid` as in `visual_tokens`."""
        return self.layout.image_ids(self.visual_tokens(grid))

    def __call__(
        self,
        images: ImageInput | Sequence[Any] | None = None,
        text: Content | Sequence[Content] = "",
        prompt: str | None = None,
        grid: Grid | None = None,
        padding_side: str = "left",
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare one prompt or a batch.

        Args:
            images: with one text, its image or images; with a list of texts, for each text an image, a list
                of images, or None.
            text: a text, or a list of texts. Images come before the text; a text that is itself a list of
                texts and images (Pillow, array or `Path`) keeps their order.
            prompt: name of the prompt around each text (see `prompts.PROMPTS`); without one, texts stand as
                they are.
            grid: another grid than the processor's.
            padding_side: "left" to generate, "right" to train.

        Raises:
            ValueError: not as many entries in `images` as texts, an image that cannot be read, or as
                `PromptLayout.encode`.
        """
        layout = self.layout
        visual_tokens = self.visual_tokens(grid)
        rows: list[list[int]] = []
        opened_images: list[Image.Image] = []

        for content, leading_images in _pair(text, images):
            # To the layout, an image is the number of its visual tokens.
            parts: list[str | int] = []
            for part in _open_images(content, leading_images):
                if isinstance(part, str):
                    parts.append(part)
                else:
                    parts.append(visual_tokens)
                    opened_images.append(part)
            rows.append(layout.encode(parts, prompt))

        # Also gives the attention mask, 0 on padding.
        features = self.tokenizer.pad({"input_ids": rows}, padding_side=padding_side, return_tensors="pt")
        if opened_images:
            features = {**features, **self.image_processor(opened_images, grid)}
        return BatchFeature(dict(features))


def _pair(text: Content | Sequence[Content], images: Any) -> list[tuple[Content, list[ImageInput]]]:
    """Return each text with the images that come before it."""
    entries = _as_list(images)
    if isinstance(text, str):
        return [(text, entries)]

    # No images at all: texts alone.
    entries = entries or [None] * len(text)
    if len(entries) != len(text):
        raise ValueError(
            f"got {len(text)} texts and {len(entries)} entries in images: "
            "pass for each text an image, a list of images, or None"
        )

    return [(content, _as_list(entry)) for content, entry in zip(text, entries, strict=True)]


def _as_list(images: Any) -> list[ImageInput]:
    """Return no image, one image or several as a list."""
    if images is None:
        return []
    return list(images) if isinstance(images, list | tuple) else [images]


def _open_images(content: Content, leading_images: list[ImageInput]) -> list[str | Image.Image]:
    """Return texts and opened images in their order."""
    parts = [content] if isinstance(content, str) else content
    return [
        *(open_image(image) for image in leading_images),
        *(part if isinstance(part, str) else open_image(part) for part in parts),
    ]


# So that `MonkeyProcessor.from_pretrained` and `AutoProcessor` find the image processor by the model's type.
AutoImageProcessor.register(MonkeyConfig, image_processor_classes={"pil": MonkeyImageProcessor})
AutoProcessor.register(MonkeyConfig, MonkeyProcessor)
