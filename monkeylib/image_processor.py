"""From images to views: resized, normalised and cut into tiles, with a global view."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from monkeylib import tiling
from monkeylib.byte_views import global_view_bytes, resize_bytes
from monkeylib.errors import choose, nearest, shorten, unknown_name
from monkeylib.images import ImageInput, JpegFile, open_image, open_late, read_pixels
from monkeylib.model.config import MonkeyConfig, Views
from monkeylib.model.limits import check_sizes
from monkeylib.model.normalisation import CLIP_MEAN, CLIP_STD, normalisation
from monkeylib.tiling import AutoGrid, GlobalFrom, Grid, as_grid, check_pixels, global_view, split_tiles

# Advice where a grid that follows the image's shape cannot be had.
_ONE_GRID = "give all images one grid of rows and columns, or set tile_overlap to 0"

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
    "exact",
)
# What transformers writes into the file of an image processor beside the arguments of its class.
_WRITTEN_BY_TRANSFORMERS = ("image_processor_type", "feature_extractor_type", "processor_class", "auto_map")


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
        exact: False makes views of bytes in about a third of the time (`byte_views`). They take a quarter of
            the memory, and the model normalises them as its ViT was trained (`Monkey` checks that this is how
            the processor would). Large JPEG files are decoded at 1/2 to 1/8 of their size (`jpeg_files`).
            Pixels then differ by a few of 255 from those of the released code.
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
        exact: bool = True,
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
        if not isinstance(exact, bool):
            raise ValueError(f"exact is {shorten(exact)}: expected true or false")
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
        self.exact = exact

    @classmethod
    def from_dict(cls, image_processor_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """Build an image processor of saved settings, other ones in `kwargs` in place of theirs.

        transformers would set the latter unchecked.
        """
        arguments = {name: kwargs.pop(name) for name in IMAGE_ARGUMENTS if name in kwargs}
        return super().from_dict({**image_processor_dict, **arguments}, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings; the file of a processor like the paper's has neither overlap nor `exact`."""
        settings = super().to_dict()
        if not self.tile_overlap:
            settings.pop("tile_overlap", None)
        if self.exact:
            settings.pop("exact", None)
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

    def check_normalisation(self, model_type: str) -> None:
        """Check that a vision encoder of a type normalises bytes as this processor would.

        Raises:
            ValueError: views are bytes, and the encoder was trained on pixels of another mean or deviation.
        """
        mean, std = normalisation(model_type)
        if not self.exact and (self.image_mean != list(mean) or self.image_std != list(std)):
            raise ValueError(
                f"the model normalises views of bytes by mean {list(mean)} and deviation {list(std)} of a "
                f"{model_type}, this processor has {self.image_mean} and {self.image_std}: take a processor "
                "with exact=True"
            )

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput],
        grid: GridInput | Sequence[Grid] | None = None,
        return_tensors: TensorType = "pt",
    ) -> BatchFeature:
        """Return `pixel_values [V, 3, tile_size, tile_size]` and `grids [images, 2]`; bytes unless exact.

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
            opened = self.open(image)
            grid_of_image = self.select_grid(opened.size, choice)
            make_views = self._views if self.exact else self._byte_views
            views.append(make_views(opened, grid_of_image))
            grid_rows.append(list(grid_of_image))

        pixel_values = views[0] if len(views) == 1 else torch.cat(views)
        features = {"pixel_values": pixel_values, "grids": torch.tensor(grid_rows)}
        return BatchFeature(convert_tensors(features, return_tensors))

    def open(self, image: ImageInput) -> Image.Image | JpegFile:
        """Open an image, whose size is known then; unless views are exact, JPEG files are decoded later.

        Raises:
            ValueError: an image that cannot be read.
        """
        if self.exact:
            return open_image(image)
        return image if isinstance(image, JpegFile) else open_late(image)

    def _byte_views(self, image: Image.Image | JpegFile, grid: Grid) -> torch.Tensor:
        """Return the views of one image as `_views` does, in bytes."""
        rows, cols = grid if grid.tiles else (1, 1)
        height, width = self._covered(rows), self._covered(cols)
        pixels = read_pixels(image, enough=(width, height))
        resized = resize_bytes(pixels, width, height, self.resize_mode, self.image_mean)
        if not grid.tiles:
            return resized[None]

        # The colours of a pixel stay side by side, so that whole rows of tiles are copied.
        side = self.tile_size
        views = torch.empty(self.view_count(grid), side, side, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
        split_tiles(resized, side, self.tile_overlap, out=views[: grid.tiles])
        if self.views == "tiles":
            return views

        if self.global_from == "original":
            views[-1] = resize_bytes(pixels, side, side, self.resize_mode, self.image_mean)
        else:
            views[-1] = global_view_bytes(resized, side)
        return views

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
        height, width = self._covered(rows), self._covered(cols)
        resized = tiling.resize(image, width, height, self.resize_mode, self.image_mean)

        # [height, width, 3] bytes -> [3, height, width] from 0 to 1. Channel by channel in memory, while they
        # are bytes: every step that follows would else read pixels three apart.
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous().float().div_(255)
        mean = torch.tensor(self.image_mean)[:, None, None]
        std = torch.tensor(self.image_std)[:, None, None]
        return pixels.sub_(mean).div_(std)

    def _covered(self, tiles: int) -> int:
        """Return the pixels that tiles in a row, or in a column, cover together."""
        return tiling.covered_side(tiles, self.tile_size, self.tile_overlap)


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
