"""What a model sees of an image: its grid, its views, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from PIL import Image

from monkeylib import sizing, tiling
from monkeylib.experiments.attention import denormalise
from monkeylib.explore.variants import require_monkey
from monkeylib.images import ImageInput, open_image
from monkeylib.monkey import Monkey
from monkeylib.processing import GridInput
from monkeylib.tiling import Grid, join_tiles


@dataclass(frozen=True)
class TiledImage:
    """An image as a model sees it.

    Attributes:
        size: width and height of the image in pixels.
        grid: rows and columns of the tiles; (0, 0) for one view.
        tiles: `[tiles, 3, side, side]` from 0 to 1, row by row.
        global_view: `[3, side, side]`; None where a model has tiles alone.
        overlap: pixels that neighbouring tiles share.
        visual_tokens: what the language model reads of it.
        flops: floating-point operations of each part, until image and a prompt of 32 tokens are read.
        distortion: how many times more the image is stretched along one side than along the other.
    """

    size: tuple[int, int]
    grid: Grid
    tiles: torch.Tensor
    global_view: torch.Tensor | None
    overlap: int
    visual_tokens: int
    flops: Mapping[str, int]
    distortion: float

    @property
    def joined(self) -> torch.Tensor:
        """The tiles side by side, as the image that they were cut from: `[3, height, width]`."""
        if not self.grid.tiles:
            return self.global_view
        return join_tiles(self.tiles, self.grid, self.overlap)

    def rows(self) -> list[tuple[str, str]]:
        """Return what is to be told of it, as terms and numbers."""
        height, width = self.joined.shape[-2:]
        rows = [
            ("image", f"{self.size[0]} x {self.size[1]} pixels"),
            ("seen as", f"{width} x {height} pixels"),
            ("grid", f"{self.grid} tiles" if self.grid.tiles else "one view"),
            ("views", str(len(self.tiles) + (self.global_view is not None))),
            ("visual tokens", f"{self.visual_tokens:,}"),
            ("operations", f"{sum(self.flops.values()) / 1e9:,.2f} G"),
        ]
        if self.distortion > 1:
            rows.append(("stretched", f"{self.distortion:.2f} times along one side"))
        return rows


def tile_image(monkey: Monkey, image: ImageInput, grid: GridInput | None = None) -> TiledImage:
    """Return an image as a model sees it.

    Args:
        monkey: the model; it does not run.
        image: anything that `images.open_image` reads.
        grid: another grid than the model's; also one that it has no LoRA for.

    Raises:
        ValueError: an image that cannot be read, or no grid.
    """
    processor = require_monkey(monkey).processor
    image_processor = processor.image_processor
    opened = open_image(image)
    selected = monkey.select_grid(opened.size, grid)

    views = denormalise(image_processor(opened, selected)["pixel_values"], image_processor)
    tiles, rest = views[: selected.tiles], views[selected.tiles :]

    # An image of one view is stretched over one square.
    stretches = image_processor.resize_mode == "stretch"
    shape = selected if selected.tiles else Grid(1, 1)
    return TiledImage(
        size=opened.size,
        grid=selected,
        tiles=tiles,
        global_view=rest[0] if len(rest) else None,
        overlap=image_processor.tile_overlap,
        visual_tokens=processor.visual_tokens(selected),
        flops=sizing.count_flops(monkey.model.config, selected),
        distortion=float(tiling.distortion(*opened.size, shape)) if stretches else 1.0,
    )


def to_image(pixels: torch.Tensor) -> Image.Image:
    """Return `[3, H, W]`, values from 0 to 1, as an image."""
    values = pixels.clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(values.permute(1, 2, 0).numpy())
