"""Images cut into views, and what of their print is left in one view."""

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch.nn import functional as F

from monkeylib.boxes import Box
from monkeylib.reproduce.figures import COLOURS
from monkeylib.tiling import Grid, join_tiles, tile_boxes

_GAP = 0.06  # between tiles drawn apart, of a tile's side
_WIDTH = 8.5  # inches
_LARGE = 300  # pixels: from here on an image has more pixels than its drawing


def show(ax: Axes, pixels: torch.Tensor, title: str = "") -> None:
    """Show `[3, H, W]`, values from 0 to 1 (a bicubic view may go a little beyond), without axes."""
    _draw(ax, pixels)
    ax.set_title(title)
    ax.set_axis_off()


def _draw(ax: Axes, pixels: torch.Tensor, **place: tuple[float, float, float, float]) -> None:
    smoothing = "auto" if pixels.shape[-1] > _LARGE else "nearest"
    ax.imshow(pixels.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation=smoothing, **place)


def draw_views(tiles: torch.Tensor, whole: torch.Tensor, grid: Grid) -> Figure:
    """An image with its grid, its tiles apart, and its global view, all in the same scale.

    Args:
        tiles: `[rows * cols, 3, tile, tile]`, values from 0 to 1.
        whole: `[3, tile, tile]`, the global view.
        grid: rows and columns.
    """
    side = tiles.shape[-1]
    apart = side * (1 + _GAP)
    widths = [grid.cols, grid.cols * (1 + _GAP), 1]
    height = _WIDTH / sum(widths) * grid.rows * (1 + _GAP) + 0.3
    fig, axes = plt.subplots(1, 3, figsize=(_WIDTH, height), width_ratios=widths)
    show(axes[0], join_tiles(tiles, grid), f"{grid.cols * side} x {grid.rows * side} pixels, grid {grid}")
    for number, (x0, y0, x1, y1) in enumerate(tile_boxes(grid, side)):
        axes[0].add_patch(
            Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=COLOURS[1], clip_on=False)
        )
        row, col = divmod(number, grid.cols)
        left, top = col * apart, row * apart
        _draw(axes[1], tiles[number], extent=(left, left + side, top + side, top))
        badge = {"facecolor": COLOURS[1], "edgecolor": "none", "pad": 2}
        axes[1].text(left + 0.05 * side, top + 0.05 * side, number, va="top", color="white", bbox=badge)
    axes[1].set(xlim=(0, grid.cols * apart), ylim=(grid.rows * apart, 0), title=f"{grid.tiles} tiles")
    axes[1].set_axis_off()
    show(axes[2], whole, "global view")
    for ax in axes:
        ax.set_anchor("NW")
    return fig


def draw_print(image: torch.Tensor, views: dict[str, torch.Tensor], boxes: dict[str, Box]) -> Figure:
    """The same evidence in an image and in smaller versions of it, one pixel as a square.

    Args:
        image: `[3, H, W]`, values from 0 to 1.
        views: title -> a smaller version `[3, h, w]`.
        boxes: title -> evidence in pixels of the image.
    """
    columns = {f"{image.shape[-1]} pixels": image, **views}
    shape = [(box[3] - box[1]) / (box[2] - box[0]) for box in boxes.values()]
    size = (_WIDTH, sum(_WIDTH / len(columns) * ratio + 0.3 for ratio in shape))
    fig, axes = plt.subplots(len(boxes), len(columns), figsize=size, height_ratios=shape, squeeze=False)
    for line, (name, box) in zip(axes, boxes.items(), strict=True):
        for ax, (title, pixels) in zip(line, columns.items(), strict=True):
            show(ax, crop(pixels, box, image.shape[-1]), f"{name}, {title}")
    return fig


def crop(pixels: torch.Tensor, box: Box, width: int, margin: float = 3.0) -> torch.Tensor:
    """What lies in `box`, and a margin around it, of a version of an image that was `width` pixels wide.

    Args:
        pixels: `[3, h, w]`.
        box: in pixels of the image.
        width: the image's.
        margin: in pixels of the image.
    """
    scale = pixels.shape[-1] / width
    x0, y0 = (max(0, int((start - margin) * scale)) for start in box[:2])
    x1, y1 = (int((end + margin) * scale + 1) for end in box[2:])
    return pixels[:, y0:y1, x0:x1]


def smaller(image: torch.Tensor, side: int) -> torch.Tensor:
    """`[3, H, W]` shrunk to `[3, side, side]` with antialiasing, as Pillow does."""
    return F.interpolate(image[None], size=(side, side), mode="bicubic", antialias=True)[0]


def kept(image: torch.Tensor, view: torch.Tensor, box: Box) -> float:
    """How much of the brightness pattern inside `box` the view gives back when enlarged again.

    The share of variance explained: 1 where nothing is lost, 0 where an even grey would do as well.

    Args:
        image: `[3, H, W]`.
        view: a smaller version `[3, h, w]`.
        box: in pixels of the image.
    """
    enlarged = F.interpolate(view[None], size=image.shape[-2:], mode="bicubic")[0]
    x0, y0, x1, y1 = (int(edge) for edge in box)
    true, made = (pixels[:, y0:y1, x0:x1].mean(0) for pixels in (image, enlarged))
    return float(1 - (true - made).square().mean() / true.var(correction=0))
