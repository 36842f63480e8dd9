"""Images cut into tiles, and what a view loses of the small text in them."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch.nn import functional as F

from monkeylib.boxes import Box
from monkeylib.experiments.tiling_schemes import Layout
from monkeylib.plots.style import COLOURS, PALE
from monkeylib.tiling import Grid, covered_side, join_tiles, tile_boxes

_GAP = 0.06  # between separated tiles, as a fraction of a tile's side
_WIDTH = 8.5  # inches
_LARGE = 300  # pixels: from here on an image has more pixels than its drawing


def show_view(ax: Axes, pixels: torch.Tensor, title: str = "") -> None:
    """Show `[3, H, W]`, values from 0 to 1 (a bicubic view may go a little beyond), without axes."""
    _draw_pixels(ax, pixels)
    ax.set_title(title)
    ax.set_axis_off()


def _draw_pixels(ax: Axes, pixels: torch.Tensor, extent: Box | None = None) -> None:
    smoothing = "auto" if pixels.shape[-1] > _LARGE else "nearest"
    ax.imshow(pixels.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation=smoothing, extent=extent)


def draw_views(tiles: torch.Tensor, global_view: torch.Tensor, grid: Grid, overlap: int = 0) -> Figure:
    """Draw an image with its grid, its separated tiles, and its global view, all in the same scale.

    Args:
        tiles: `[rows * cols, 3, tile, tile]`, values from 0 to 1.
        global_view: `[3, tile, tile]`.
        grid: rows and columns.
        overlap: pixels that neighbouring tiles share.
    """
    side = tiles.shape[-1]

    # Columns of the figure: the image, its tiles with gaps, the global view.
    widths = [grid.cols, grid.cols * (1 + _GAP), 1]
    height = _WIDTH / sum(widths) * grid.rows * (1 + _GAP) + 0.3
    fig, axes = plt.subplots(1, 3, figsize=(_WIDTH, height), width_ratios=widths)

    width, height = covered_side(grid.cols, side, overlap), covered_side(grid.rows, side, overlap)
    size = f"{width} x {height} pixels, grid {grid}"
    show_view(axes[0], join_tiles(tiles, grid, overlap), size)
    for x0, y0, x1, y1 in tile_boxes(grid, side, overlap):
        axes[0].add_patch(
            Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=COLOURS[1], clip_on=False)
        )

    _draw_separated(axes[1], tiles, grid)
    show_view(axes[2], global_view, "global view")

    for ax in axes:
        ax.set_anchor("NW")
    return fig


def _draw_separated(ax: Axes, tiles: torch.Tensor, grid: Grid) -> None:
    """Draw numbered tiles with gaps between them."""
    side = tiles.shape[-1]
    step = side * (1 + _GAP)
    badge = {"facecolor": COLOURS[1], "edgecolor": "none", "pad": 2}

    for number, tile in enumerate(tiles):
        row, col = divmod(number, grid.cols)
        # matplotlib's extent: left, right, bottom, top, with y pointing down.
        left, top = col * step, row * step
        _draw_pixels(ax, tile, extent=(left, left + side, top + side, top))
        ax.text(left + 0.05 * side, top + 0.05 * side, number, va="top", color="white", bbox=badge)

    ax.set(xlim=(0, grid.cols * step), ylim=(grid.rows * step, 0), title=f"{grid.tiles} tiles")
    ax.set_axis_off()


# Schemes of high resolution


def draw_schemes(
    images: Sequence[tuple[Image.Image, Sequence[Box]]],
    schemes: Mapping[str, Callable[[tuple[int, int]], Layout]],
) -> Figure:
    """Draw the same images as every scheme cuts them: padding grey, borders of tiles and cut words marked.

    Args:
        images: RGB, with boxes of their words in pixels; one row each.
        schemes: by name; one column each, after the images themselves.
    """
    columns = 1 + len(schemes)
    fig, axes = plt.subplots(len(images), columns, figsize=(1.9 * columns, 2.65 * len(images)), squeeze=False)
    for row, (image, words) in zip(axes, images, strict=True):
        row[0].imshow(image)
        text = f"{len(words)} words" if words else "no text"
        row[0].set_xlabel(f"{image.width} x {image.height} pixels\n{text}")
        for ax, lay_out in zip(row[1:], schemes.values(), strict=True):
            _draw_layout(ax, image, words, lay_out(image.size))

    for ax, title in zip(axes[0], ("image", *schemes), strict=True):
        ax.set_title(title, fontsize=9)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[], anchor="N")
        ax.xaxis.label.set_fontsize(8)
        ax.grid(False)
        ax.spines[:].set_visible(False)
    return fig


def _draw_layout(ax: Axes, image: Image.Image, words: Sequence[Box], layout: Layout) -> None:
    """Draw an image on its canvas, with the borders of tiles, and the words that these cut."""
    width, height = layout.canvas
    left, top, right, bottom = layout.content
    ax.imshow(image, extent=(left, right, bottom, top), aspect="equal")
    ax.set(xlim=(0, width), ylim=(height, 0), facecolor=PALE)

    # A line for each border; those of the canvas count as well.
    line = {"color": COLOURS[1], "linewidth": 1.2, "clip_on": False}
    for col in range(layout.grid.cols + 1):
        ax.plot([col * layout.tile] * 2, [0, height], **line)
    for row in range(layout.grid.rows + 1):
        ax.plot([0, width], [row * layout.tile] * 2, **line)

    cut = [word for word in words if layout.cuts(word)]
    for x0, y0, x1, y1 in map(layout.place, cut):
        ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, color=COLOURS[1], alpha=0.45, linewidth=0))

    facts = [f"{layout.visual_tokens:,} tokens"]
    if words:
        facts.append(f"{len(cut)} word{'s' * (len(cut) != 1)} cut")
    if layout.stretch >= 1.05:
        facts.append(f"stretched {layout.stretch:.1f} times")
    ax.set_xlabel("\n".join(facts))


# Small text


def draw_text_crops(image: torch.Tensor, views: dict[str, torch.Tensor], boxes: dict[str, Box]) -> Figure:
    """Draw the same text in an image and in smaller versions of it, one pixel as a square.

    Args:
        image: `[3, H, W]`, values from 0 to 1.
        views: title -> a smaller version `[3, h, w]`.
        boxes: title -> where the text stands, in pixels of the image.
    """
    columns = {f"{image.shape[-1]} pixels": image, **views}
    shapes = [(box[3] - box[1]) / (box[2] - box[0]) for box in boxes.values()]
    size = (_WIDTH, sum(_WIDTH / len(columns) * shape + 0.3 for shape in shapes))
    fig, axes = plt.subplots(len(boxes), len(columns), figsize=size, height_ratios=shapes, squeeze=False)

    for row, (name, box) in zip(axes, boxes.items(), strict=True):
        for ax, (title, pixels) in zip(row, columns.items(), strict=True):
            show_view(ax, crop(pixels, box, image.shape[-1]), f"{name}, {title}")

    return fig


def crop(pixels: torch.Tensor, box: Box, width: int, margin: float = 3.0) -> torch.Tensor:
    """Return what lies in `box`, and a margin around it, of a version of an image `width` pixels wide.

    Args:
        pixels: `[3, h, w]`.
        box: in pixels of the image.
        width: the image's.
        margin: in pixels of the image.
    """

    # Pixels of this version per pixel of the image.
    scale = pixels.shape[-1] / width
    x0, y0 = (max(0, int((start - margin) * scale)) for start in box[:2])
    x1, y1 = (int((end + margin) * scale + 1) for end in box[2:])
    return pixels[:, y0:y1, x0:x1]


def downscale(image: torch.Tensor, side: int) -> torch.Tensor:
    """Return `[3, H, W]` shrunk to `[3, side, side]` with antialiasing, as Pillow does."""
    return F.interpolate(image[None], size=(side, side), mode="bicubic", antialias=True)[0]


def explained_variance(image: torch.Tensor, view: torch.Tensor, box: Box) -> float:
    """Return how much of the brightness pattern inside `box` the view shows when it is enlarged again.

    1 - mean((image - enlarged)^2) / var(image): 1 where nothing is lost, 0 where an even grey would do as
    well.

    Args:
        image: `[3, H, W]`.
        view: a smaller version `[3, h, w]`.
        box: in pixels of the image.
    """
    enlarged = F.interpolate(view[None], size=image.shape[-2:], mode="bicubic")[0]

    x0, y0, x1, y1 = (int(edge) for edge in box)
    target = image[:, y0:y1, x0:x1].mean(0)
    restored = enlarged[:, y0:y1, x0:x1].mean(0)

    return float(1 - (target - restored).square().mean() / target.var(correction=0))
