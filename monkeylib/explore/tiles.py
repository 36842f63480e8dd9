"""What a model sees of an image: its grid, its views, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image

from monkeylib import sizing, tiling
from monkeylib.experiments.attention import denormalise
from monkeylib.images import ImageInput, open_image
from monkeylib.monkey import Monkey
from monkeylib.processing import GridInput
from monkeylib.raised_monkey import RaisedMonkey
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
        distortion: how many times more the image is stretched along one side than along the other.
        flops: floating-point operations of each part, until image and a prompt of 32 tokens are read; empty
            for a raised model, whose operations `raising.raising_costs` counts.
    """

    size: tuple[int, int]
    grid: Grid
    tiles: torch.Tensor
    global_view: torch.Tensor | None
    overlap: int
    visual_tokens: int
    distortion: float
    flops: Mapping[str, int] = field(default_factory=dict)

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
        ]
        if self.flops:
            rows.append(("operations", f"{sum(self.flops.values()) / 1e9:,.2f} GFLOP"))
        if self.distortion > 1:
            rows.append(("stretched", f"{self.distortion:.2f} times along one side"))
        return rows


def tile_image(monkey: Monkey, image: ImageInput, grid: GridInput | None = None) -> TiledImage:
    """Return an image as a model sees it.

    Args:
        monkey: the model; it does not run.
        image: anything that `images.open_image` reads.
        grid: another grid than the model's; also one that it has no LoRA for, unless it is a raised model.

    Raises:
        ValueError: an image that cannot be read, no grid, or a raised model has no adapters for it.
    """
    opened = open_image(image)
    selected = monkey.select_grid(opened.size, grid)
    if isinstance(monkey, RaisedMonkey):
        return _tile_for_raised(monkey, opened, selected)

    processor = monkey.processor
    image_processor = processor.image_processor
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
        distortion=float(tiling.distortion(*opened.size, shape)) if stretches else 1.0,
        flops=sizing.count_flops(monkey.model.config, selected),
    )


def _tile_for_raised(monkey: RaisedMonkey, image: Image.Image, grid: Grid) -> TiledImage:
    """Return an image as a raised model sees it: the global view is what the base makes of the image.

    Raises:
        ValueError: views that are no images any more when they reach the model.
    """
    image_processor = monkey.processor.image_processor
    pixels = monkey.conversations.views_of([[image]], [[grid]])["pixel_values"].float()
    if pixels.shape[-3] != 3 or pixels[..., 0, 0, 0].numel() != grid.tiles + 1:
        raise ValueError(
            f"{type(image_processor).__name__} prepares views in a form of its own, so they cannot be "
            "displayed: `answer` and `chat` take this model"
        )

    # Some families nest the views of a prompt.
    views = pixels.reshape(-1, *pixels.shape[-3:])
    if image_processor.do_normalize:
        mean = torch.tensor(image_processor.image_mean)[:, None, None]
        views = views * torch.tensor(image_processor.image_std)[:, None, None] + mean
    views = views.clamp(0, 1)

    stretches = monkey.resize_mode == "stretch" and grid.tiles
    return TiledImage(
        size=image.size,
        grid=grid,
        tiles=views[:-1],
        global_view=views[-1],
        overlap=0,
        visual_tokens=len(views) * monkey.conversations.views.tokens_per_view,
        distortion=float(tiling.distortion(*image.size, grid)) if stretches else 1.0,
    )


def displayed_grids(monkey: Monkey, grids: Sequence[str]) -> list[str]:
    """Return those of some grids in which images can be displayed: a raised model needs adapters for them."""
    return accepted_grids(monkey, grids) if isinstance(monkey, RaisedMonkey) else list(grids)


def accepted_grids(monkey: Monkey, grids: Sequence[str]) -> list[str]:
    """Return those of some grids that a model answers with."""
    accepted = []
    for grid in grids:
        try:
            monkey.with_grid(grid)
        except ValueError:
            continue
        accepted.append(grid)
    return accepted


def to_image(pixels: torch.Tensor) -> Image.Image:
    """Return `[3, H, W]`, values from 0 to 1, as an image."""
    values = pixels.clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(values.permute(1, 2, 0).numpy())
