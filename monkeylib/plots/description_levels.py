"""What each level of description adds, and segments laid over their images."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from monkeylib.captions.annotations import Region
from monkeylib.reproduce.figures import COLOURS, INK
from monkeylib.tables import Row

FILTERS = {
    "none": "no filter",
    "scores": "filter by the experts' scores",
    "scores and size": "by scores and size of segments",
}
_PALETTE = plt.get_cmap("tab20").colors


def draw_levels(rows: Sequence[Row], metrics: Sequence[str], columns: int = 3) -> Figure:
    """A panel for each metric: its value, with 95 % intervals, from the original caption to the texts.

    Args:
        rows: of `experiments.levels.table` (`level`, `filter`, `metric`, `value`, `low`, `high`).
        metrics: the panels, in their order.
        columns: panels in a row.

    Raises:
        ValueError: there are no rows of a metric.
    """
    levels = list(dict.fromkeys(str(row["level"]) for row in rows))
    filters = [name for name in FILTERS if any(row["filter"] == name for row in rows)]
    height = -(-len(metrics) // columns)
    size = (2.9 * columns, 2.4 * height + 0.4)
    fig, axes = plt.subplots(height, columns, figsize=size, squeeze=False, sharex=True)
    for ax, metric in zip(axes.flat, metrics, strict=False):
        chosen = [row for row in rows if row["metric"] == metric]
        if not chosen:
            raise ValueError(f"There are no rows of {metric!r} to draw.")
        for number, name in enumerate(filters):
            _line(ax, [row for row in chosen if row["filter"] == name], levels, number, FILTERS[name])
        ax.set(title=metric, ylim=(0, None if metric == "CIDEr-D" else 1.05))
        ax.set_xticks(range(len(levels)), levels, rotation=35, ha="right")
        ax.set_xlim(-0.4, len(levels) - 0.6)
    for ax in axes.flat[len(metrics) :]:
        ax.set_axis_off()
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


def _line(ax: Axes, rows: Sequence[Row], levels: Sequence[str], number: int, label: str) -> None:
    """A line through the levels that have a value, a little beside those of other filters."""
    x = [levels.index(str(row["level"])) + 0.12 * (number - 1) for row in rows]
    value, low, high = (np.array([row[key] for row in rows], float) for key in ("value", "low", "high"))
    style = {"color": COLOURS[number], "marker": "o", "markersize": 4, "capsize": 2, "elinewidth": 1}
    ax.errorbar(x, value, [value - low, high - value], label=label, **style)


def draw_segments(
    images: Sequence[Image.Image], regions: Sequence[Sequence[Region]], columns: int = 4
) -> Figure:
    """Images above, and below each its segments in colours, each with its text and its score.

    Args:
        images: the images.
        regions: the segments of each, with masks.
        columns: images in a row.
    """
    rows = -(-len(images) // columns)
    shape = max(image.height / image.width for image in images)
    size = (2.4 * columns, 2 * rows * 2.4 * shape)
    fig, axes = plt.subplots(2 * rows, columns, figsize=size, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for number, (image, found) in enumerate(zip(images, regions, strict=True)):
        row, column = 2 * (number // columns), number % columns
        axes[row, column].imshow(image)
        axes[row + 1, column].imshow(coloured(image, found))
        for region in found:
            if region.text:
                x, y = (region.box[0] + region.box[2]) / 2, (region.box[1] + region.box[3]) / 2
                badge = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8}
                label = f"{region.text} {region.score:.2f}"
                axes[row + 1, column].text(x, y, label, fontsize=6, color=INK, ha="center", bbox=badge)
    return fig


def coloured(image: Image.Image, regions: Sequence[Region]) -> np.ndarray:
    """`[H, W, 3]`, 0 to 255: a pale grey image with each mask in a colour, small ones over large ones."""
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None].repeat(3, axis=2)
    canvas = 0.5 * grey + 110
    with_masks = [region for region in regions if region.mask is not None]
    for number, region in enumerate(sorted(with_masks, key=lambda region: -region.mask.area)):
        mask = region.mask.array()
        colour = 255 * np.array(_PALETTE[number % len(_PALETTE)])
        canvas[mask] = 0.35 * grey[mask] + 0.65 * colour
    return canvas.clip(0, 255).astype(np.uint8)
