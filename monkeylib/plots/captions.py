"""Images with what the experts found, and how the filter decided."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Rectangle
from PIL import Image

from monkeylib.boxes import Box, iou, released_iou
from monkeylib.captions import filtering
from monkeylib.captions.annotations import Record, Region
from monkeylib.captions.composers.rules import reading_order
from monkeylib.reproduce.figures import COLOURS, INK

REGION, TEXT, DROPPED = COLOURS[0], COLOURS[3], COLOURS[1]
_CARD = 2.4  # width of an image in inches
_AROUND = 0.7  # height of the lines above and below it
_PIXELS = 400  # longer side of a drawn photograph: more than its place on the figure has
_BELOW = 3  # lines of text below an image
_WRAP = 36  # characters across an image


def draw_findings(images: Sequence[Image.Image], records: Sequence[Record], columns: int = 4) -> Figure:
    """Images with the boxes of regions and texts, what the filter dropped dashed, the kept texts below.

    Args:
        images: the images.
        records: what the pipeline found in each.
        columns: images in a row.
    """
    shapes = [image.height / image.width for image in images]
    heights = [_CARD * max(shapes[i : i + columns]) + _AROUND for i in range(0, len(images), columns)]
    size = (_CARD * columns, sum(heights))
    fig, axes = plt.subplots(len(heights), columns, figsize=size, height_ratios=heights, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, image, record in zip(axes.flat, images, records, strict=False):
        _show(ax, image)
        ax.set_title(record.name)
        for found in record.dropped:
            _box(ax, found.box, DROPPED, linestyle="--")
        for region in record.regions:
            _box(ax, region.box, REGION)
        for line in record.lines:
            ax.add_patch(Polygon(line.quad, fill=False, edgecolor=TEXT, linewidth=1.5))
        _name_regions(ax, record.regions)
        _below(ax, [line.text for line in reading_order(record.lines)])
    handles = [
        Line2D([], [], color=REGION),
        Line2D([], [], color=TEXT),
        Line2D([], [], color=DROPPED, ls="--"),
    ]
    fig.legend(handles, ["region", "text", "dropped by the filter"], loc="outside lower center", ncols=3)
    return fig


def draw_reading(images: Sequence[Image.Image], records: Sequence[Record]) -> Figure:
    """Images above, and below each the text that was read in it, at its place and in its size.

    What the filter dropped is drawn in another colour and crossed out.
    """
    fig, axes = plt.subplots(2, len(images), figsize=(2.8 * len(images), 5.9), squeeze=False)
    for (above, below), image, record in zip(axes.T, images, records, strict=True):
        _show(above, image)
        above.set_title(record.name)
        below.set(xlim=above.get_xlim(), ylim=above.get_ylim(), aspect="equal", xticks=[], yticks=[])
        below.grid(False)
        below.spines[:].set_visible(True)
        points = 72 * 2.6 / image.width  # of a pixel of the image
        for line in record.lines:
            _write(below, line.box, line.text, points)
        for found in record.dropped:
            if found.expert in {line.expert for line in record.lines}:
                _write(below, found.box, found.text, points, color=DROPPED)
                x0, y0, x1, y1 = found.box
                below.plot([x0, x1], [(y0 + y1) / 2] * 2, color=DROPPED, linewidth=1)
    return fig


def draw_overlap(side: float = 0.1) -> Figure:
    """The overlap of two equal boxes, one shifted sideways: correct, and as the release computes it.

    Args:
        side: of the square boxes, as a fraction of the image.
    """
    shifts = np.linspace(0, 4, 161)
    fig, ax = plt.subplots(figsize=(5.2, 3))
    for name, overlap in {"release": released_iou, "correct": iou}.items():
        values = [overlap((0, 0, side, side), (n * side, 0, (n + 1) * side, side)) for n in shifts]
        ax.plot(shifts, values, label=name)
    ax.axhline(filtering.SAME_CAPTION_IOU, color=INK, linestyle=":", label="one object from here up")
    ax.axvspan(1, shifts[-1], color=COLOURS[5], alpha=0.12, linewidth=0)
    ax.text(shifts[-1] - 0.05, 0.04, "the boxes share nothing", ha="right")
    ax.set(xlabel="shift in widths of the box", ylabel="overlap", ylim=(0, 1.02), xlim=(0, shifts[-1]))
    ax.legend(loc="upper right")
    return fig


def _show(ax: Axes, image: Image.Image) -> None:
    """An image without axes, in its own coordinates, a large one with fewer pixels."""
    small = image.convert("RGB")
    small.thumbnail((_PIXELS, _PIXELS))
    ax.imshow(small, extent=(0, image.width, image.height, 0), interpolation="auto")
    ax.set_axis_off()
    ax.set_anchor("N")


def _box(ax: Axes, box: Box, colour: str, linestyle: str = "-") -> None:
    x0, y0, x1, y1 = box
    style = {"fill": False, "edgecolor": colour, "linestyle": linestyle, "linewidth": 1.5}
    ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, **style))


def _name_regions(ax: Axes, regions: Sequence[Region]) -> None:
    """Each name once, below the best of its regions, with its score or how many there are.

    Names of regions on the right half end where the region ends, those of regions at the bottom lie inside.
    """
    names = [region.text for region in regions]
    badge = {"facecolor": REGION, "edgecolor": "none", "pad": 1.5}
    right, bottom = ax.get_xlim()[1], ax.get_ylim()[0]
    for region in {region.text: region for region in reversed(regions)}.values():
        x0, _, x1, y1 = region.box
        place = {"x": x1, "ha": "right"} if x0 + x1 > right and x0 > 0 else {"x": x0, "ha": "left"}
        count = names.count(region.text)
        label = f"{region.text} {region.score:.2f}" if count == 1 else f"{count} x {region.text}"
        align = "bottom" if y1 > 0.9 * bottom else "top"
        ax.text(y=y1, s=label, color="white", fontsize=7, va=align, bbox=badge, **place)


def _below(ax: Axes, texts: Sequence[str]) -> None:
    """The first texts below an image, each on a line."""
    shown = [text if len(text) <= _WRAP else f"{text[: _WRAP - 1]}…" for text in texts]
    if len(shown) > _BELOW:
        shown[_BELOW - 1 :] = [f"and {len(shown) - _BELOW + 1} more"]
    ax.text(0, -0.03, "\n".join(shown), transform=ax.transAxes, va="top", fontsize=8, color=TEXT)


def _write(ax: Axes, box: Box, text: str, points: float, color: str = INK) -> None:
    """Text at the left of its box, its letters as high as the box allows.

    Args:
        ax: axes in pixels of the image.
        box: where the text was found.
        text: what was read.
        points: size of a pixel of the image on the figure.
        color: of the letters.
    """
    x0, y0, _, y1 = box
    ax.text(x0, (y0 + y1) / 2, text, fontsize=0.75 * points * (y1 - y0), va="center", color=color)
