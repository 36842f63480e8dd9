"""From images to views: resized, normalised and cut into tiles, with a global view."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
)

from monkeylib import tiling
from monkeylib.errors import choose, nearest, shorten, unknown_name
from monkeylib.images import ImageInput, open_image
from monkeylib.model.config import MonkeyConfig, Views
from monkeylib.model.limits import check_sizes
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

# A grid, the choice of one by each image's shape, or one of both as a text.
GridInput = Grid | AutoGrid | str

# transformers' names of the type of tensors that are returned.
TensorType = Literal["pt", "np"]
# Arguments of the image processor.
IMAGE_ARGUMENTS = (
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
            hint = nearest(name, IMAGE_ARGUMENTS)
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
        arguments = {name: kwargs.pop(name) for name in IMAGE_ARGUMENTS if name in kwargs}
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
        return BatchFeature(convert_tensors(features, return_tensors))

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


def convert_tensors(tensors: dict[str, torch.Tensor], return_tensors: TensorType) -> dict[str, Any]:
    """Return tensors, or NumPy arrays where `return_tensors` names these."""
    if return_tensors == "pt":
        return tensors
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _is_grid_list(grid: Any) -> bool:
    """Tell a list of grids from one grid, which may be a list of two numbers."""
    return isinstance(grid, list | tuple) and not isinstance(grid, Grid) and not _are_numbers(grid)


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int) for value in values)


# So that `AutoImageProcessor` finds it by the model's type; `exist_ok`: `integrations.transformers` has named
# it before.
AutoImageProcessor.register(
    MonkeyConfig, image_processor_classes={"pil": MonkeyImageProcessor}, exist_ok=True
)
