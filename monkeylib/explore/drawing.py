"""Images for widgets and web pages: the grid over an image, and attention over it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from PIL import Image, ImageChops, ImageDraw, ImageFont

from monkeylib.experiments.attention import AttentionMaps
from monkeylib.explore.tiles import TiledImage, to_image
from monkeylib.plots.style import COLOURS, INK
from monkeylib.tiling import Grid, tile_boxes

# Of attention, from none to most. On white, nothing changes; under red, black can still be read.
COLOUR_MAP = LinearSegmentedColormap.from_list("attention", ("#ffffff", "#ffdca8", "#f58a2c", "#d7301f"))
SIDE = 512  # pixels of the longer side of a drawn image
_LINE = 2  # pixels
_FONT = 16  # pixels
_BAR = 14  # pixels across a colour bar
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the height of a colour bar, whose colours follow the square root


def enlarge(image: Image.Image, side: int = SIDE) -> Image.Image:
    """Return an image whose longer side has `side` pixels; small ones are enlarged by whole pixels."""
    factor = side / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS)


def draw_grid(tiled: TiledImage, side: int = SIDE) -> Image.Image:
    """Return the image as the tiles show it together, with the borders and numbers of the tiles."""
    image = enlarge(to_image(tiled.joined), side)
    if not tiled.grid.tiles:
        return image

    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(_FONT)
    tile_side = tiled.tiles.shape[-1]
    factor = image.width / tiled.joined.shape[-1]
    for number, box in enumerate(tile_boxes(tiled.grid, tile_side, tiled.overlap)):
        x0, y0, x1, y1 = (edge * factor for edge in box)
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=COLOURS[1], width=_LINE)

        label = str(number)
        width = draw.textlength(label, font) + 8
        draw.rectangle((x0, y0, x0 + width, y0 + _FONT + 6), fill=COLOURS[1])
        draw.text((x0 + 4, y0 + 2), label, "white", font)
    return image


def draw_views(tiled: TiledImage, side: int = SIDE) -> Image.Image:
    """Return the tiles with gaps between them, and the global view beside them, all at one scale."""
    tile_side = _tile_side(tiled.grid, side)
    tiles = [enlarge(to_image(tile), tile_side) for tile in tiled.tiles]
    has_global_view = tiled.global_view is not None
    return _place_views(
        tiles, enlarge(to_image(tiled.global_view), tile_side) if has_global_view else None, tiled.grid
    )


def _tile_side(grid: Grid, side: int) -> int:
    """Return the pixels of a view's side, where all tiles together have `side`; one view has half of it."""
    return max(1, side // max(grid.rows, grid.cols)) if grid.tiles else side // 2


def _place_views(tiles: Sequence[Image.Image], global_view: Image.Image | None, grid: Grid) -> Image.Image:
    """Return views of one size in their places: the tiles with gaps between them, the global view beside."""
    if not grid.tiles:
        return global_view

    tile_side = tiles[0].width
    gap = max(4, tile_side // 16)
    columns = grid.cols + (global_view is not None)
    canvas = Image.new(
        "RGB",
        (columns * (tile_side + gap) + 2 * gap, grid.rows * (tile_side + gap) - gap),
        "white",
    )
    for number, tile in enumerate(tiles):
        row, col = divmod(number, grid.cols)
        canvas.paste(tile, (col * (tile_side + gap), row * (tile_side + gap)))
    if global_view is not None:
        canvas.paste(global_view, (grid.cols * (tile_side + gap) + 2 * gap, 0))
    return canvas


def overlay_views(maps: AttentionMaps, query: int | None, maximum: float, side: int = SIDE) -> Image.Image:
    """Return all views in their places, with the attention of the resampler over each.

    Args:
        maps: attention of the resampler's queries.
        query: the same query in every view; None for the mean over all.
        maximum: the attention that has the brightest colour, in every view.
        side: pixels of all tiles together.
    """
    weights = maps.over_views(query)
    tile_side = _tile_side(maps.grid, side)
    views = [
        overlay_attention(to_image(view), attention, maximum, tile_side)
        for view, attention in zip(maps.views, weights, strict=True)
    ]
    tiles, rest = views[: maps.grid.tiles], views[maps.grid.tiles :]
    return _place_views(tiles, rest[0] if rest else None, maps.grid)


def add_colour_bar(image: Image.Image, maximum: float) -> Image.Image:
    """Return an image of attention with the scale of its colours on the right, in percent.

    Args:
        image: drawn by `overlay_attention` or `overlay_views`.
        maximum: the attention that has the brightest colour.
    """
    font = ImageFont.load_default(_FONT)
    height = max(image.height, 4 * _FONT)
    top, bottom = _FONT // 2, height - 1 - _FONT // 2  # the middles of the highest and the lowest number
    left = image.width + 14

    texts = {tick: f"{100 * maximum * tick**2:.2g} %" for tick in _TICKS}
    width = math.ceil(max(font.getlength(text) for text in texts.values()))
    canvas = Image.new("RGB", (left + _BAR + 8 + width, height), "white")
    canvas.paste(image, (0, 0))

    strength = np.linspace(1, 0, bottom - top + 1)[:, None].repeat(_BAR, axis=1)
    colours = (COLOUR_MAP(strength)[..., :3] * 255).astype(np.uint8)
    canvas.paste(Image.fromarray(colours), (left, top))

    draw = ImageDraw.Draw(canvas)
    draw.rectangle((left - 1, top - 1, left + _BAR, bottom + 1), outline=INK)
    for tick, text in texts.items():
        y = bottom - round(tick * (bottom - top))
        draw.line((left + _BAR, y, left + _BAR + 3, y), fill=INK)
        draw.text((left + _BAR + 6, y), text, INK, font, anchor="lm")
    return canvas


def overlay_attention(
    image: Image.Image, attention: torch.Tensor, maximum: float | None = None, side: int = SIDE
) -> Image.Image:
    """Return an image in grey, with attention over it in colours.

    Args:
        image: what is attended to.
        attention: `[rows, cols]` over it.
        maximum: the attention that has the brightest colour; its own largest value by default. Images that
            are compared have one. Colours follow the square root, so that small values show beside it.
        side: pixels of the longer side.
    """
    largest = float(attention.max()) if maximum is None else maximum
    strength = (attention.float() / max(largest, 1e-12)).clamp(0, 1).sqrt().numpy()

    # Colour is multiplied onto the pale image, so that what is attended to can be read.
    grey = enlarge(image, side).convert("L").point(lambda value: 40 + value * 215 // 255)
    colours = (COLOUR_MAP(strength)[..., :3] * 255).astype(np.uint8)
    colours = Image.fromarray(colours).resize(grey.size, Image.Resampling.BILINEAR)
    return ImageChops.multiply(grey.convert("RGB"), colours)


def grid_choices(max_tiles: int) -> list[str]:
    """Return all grids of up to so many tiles, the small ones first, as texts.

    >>> grid_choices(3)
    ['1x1', '1x2', '2x1', '1x3', '3x1']
    """
    grids = [
        (rows, cols)
        for rows in range(1, max_tiles + 1)
        for cols in range(1, max_tiles + 1)
        if rows * cols <= max_tiles
    ]
    grids.sort(key=lambda grid: (math.prod(grid), grid))
    return [f"{rows}x{cols}" for rows, cols in grids]
