"""Images with annotations and dropped annotations, and what each level of captions adds."""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from PIL import Image

from monkeylib.boxes import Box, iou, released_iou
from monkeylib.captions import filtering
from monkeylib.captions.annotations import Record, Region, reading_order
from monkeylib.plots.labels import separate_labels
from monkeylib.plots.style import COLOURS, INK, draw_intervals
from monkeylib.tables import Row

REGION, TEXT, DROPPED = COLOURS[0], COLOURS[3], COLOURS[1]
FILTERS = {
    "none": "no filter",
    "scores": "filter by the experts' scores",
    "scores and size": "by scores and size of segments",
}
_HALO = [withStroke(linewidth=3, foreground="white", alpha=0.7)]  # so that lines stand out on any image
_SEGMENT_COLOURS = plt.get_cmap("tab20").colors
_WIDTH = 2.4  # of an image, in inches
_TEXT_HEIGHT = 0.7  # of the lines above and below an image, in inches
_PIXELS = 400  # longer side of a drawn photograph: more than its place on the figure has
_MAX_LINES = 3  # of text below an image
_MAX_CHARACTERS = 36  # across an image
_MAX_STATEMENTS = 5  # below an image of one level
_STATEMENT_CHARACTERS = 28  # across such an image
_DESCRIPTION_CHARACTERS = 32  # across the description
# Of thresholds that are marked: the line, and what it stands for.
_THRESHOLD_STYLES = {
    "before": (":", "threshold of the released code"),
    "after": ("-", "calibrated threshold"),
}
DESCRIPTION_LEVELS = ("1 whole image", "2 regions", "3 segments", "4 text", "5 description")
EXPERT_TITLES = {
    "yolox-nano": "YOLOX: regions",
    "efficientnet-lite0": "tagger: whole image",
    "sam-distilled+efficientnet-lite0": "tagger: segments",
    "pp-ocr": "PP-OCR: lines of text",
}


# Annotated images


def draw_annotations(images: Sequence[Image.Image], records: Sequence[Record], columns: int = 4) -> Figure:
    """Draw images with the boxes of regions and texts, dropped annotations dashed, the texts below.

    Args:
        images: the images.
        records: the annotations of each.
        columns: images in a row.
    """
    shapes = [image.height / image.width for image in images]
    # A row is as high as its tallest image, which is drawn _WIDTH inches wide.
    heights = []
    for start in range(0, len(images), columns):
        heights.append(_WIDTH * max(shapes[start : start + columns]) + _TEXT_HEIGHT)

    size = (_WIDTH * columns, sum(heights))
    fig, axes = plt.subplots(len(heights), columns, figsize=size, height_ratios=heights, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()

    labels = []
    for ax, image, record in zip(axes.flat, images, records, strict=False):
        labels += _draw_record(ax, image, record)

    legend = {
        "region": Line2D([], [], color=REGION),
        "text": Line2D([], [], color=TEXT),
        "dropped by the filter": Line2D([], [], color=DROPPED, ls="--"),
    }
    fig.legend(list(legend.values()), list(legend), loc="outside lower center", ncols=3)

    # Last, since labels are moved where the layout has put their images.
    separate_labels(labels)
    return fig


def _draw_record(ax: Axes, image: Image.Image, record: Record) -> list[Text]:
    """Draw an image with its annotations, and return the labels of its regions, the best first."""
    _show(ax, image)
    ax.set_title(record.name)

    for dropped in record.dropped:
        _draw_box(ax, dropped.box, DROPPED, linestyle="--")
    for region in record.regions:
        _draw_box(ax, region.box, REGION)
    for line in record.lines:
        ax.add_patch(Polygon(line.quad, fill=False, edgecolor=TEXT, linewidth=1.5))

    _write_below(ax, [line.text for line in reading_order(record.lines)])
    return _label_regions(ax, record.regions)


def _show(ax: Axes, image: Image.Image) -> None:
    """Show an image without axes, in its own coordinates, a large one with fewer pixels."""
    small = image.convert("RGB")
    small.thumbnail((_PIXELS, _PIXELS))
    ax.imshow(small, extent=(0, image.width, image.height, 0), interpolation="auto")
    ax.set_axis_off()
    ax.set_anchor("N")


def _draw_box(ax: Axes, box: Box, colour: str, linestyle: str = "-") -> None:
    x0, y0, x1, y1 = box
    style = {"fill": False, "edgecolor": colour, "linestyle": linestyle, "linewidth": 1.5}
    ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, path_effects=_HALO, **style))


def _label_regions(ax: Axes, regions: Sequence[Region]) -> list[Text]:
    """Write each name once, below the best of its regions, with its score or the number of regions.

    Names of regions on the right half end where the region ends, those of regions at the bottom lie inside.

    Returns:
        The labels, that of the best region first.
    """
    labels = []
    names = [region.text for region in regions]
    best = {region.text: region for region in reversed(regions)}  # regions come with the best first
    badge = {"facecolor": REGION, "edgecolor": "none", "pad": 1.5}
    right, bottom = ax.get_xlim()[1], ax.get_ylim()[0]

    for region in best.values():
        x0, _, x1, y1 = region.box
        on_right_half = x0 + x1 > right and x0 > 0

        count = names.count(region.text)
        label = f"{region.text} {region.score:.2f}" if count == 1 else f"{count} x {region.text}"
        text = ax.text(
            x1 if on_right_half else x0,
            y1,
            label,
            color="white",
            fontsize=7,
            ha="right" if on_right_half else "left",
            va="bottom" if y1 > 0.9 * bottom else "top",
            bbox=badge,
        )
        labels.append(text)
    return labels[::-1]


def _write_below(ax: Axes, texts: Sequence[str]) -> None:
    """Write the first texts below an image, each on a line."""
    lines = [text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 1]}…" for text in texts]
    if len(lines) > _MAX_LINES:
        remaining = len(lines) - _MAX_LINES + 1
        lines = [*lines[: _MAX_LINES - 1], f"and {remaining} more"]

    ax.text(0, -0.03, "\n".join(lines), transform=ax.transAxes, va="top", fontsize=8, color=TEXT)


# The levels of a description


def draw_description_levels(image: Image.Image, annotated: Record, filtered: Record) -> Figure:
    """Draw the levels of a description side by side, each with what its experts say, below the image.

    Args:
        image: the image.
        annotated: everything that the experts have annotated, with masks.
        filtered: what passes the filter, and the description that is made of it.
    """
    fig, axes = plt.subplots(1, 5, figsize=(2.2 * 5, 3.5))
    for ax in axes[:4]:
        _show(ax, image)
    whole, regions, segments, texts, description = axes

    originals = [(filtered.original_caption, True)] if filtered.original_caption else []
    _list_below(whole, [*originals, *((caption.text, True) for caption in filtered.captions)])

    statements: dict[str, list[tuple[str, bool]]] = {"region": [], "segment": []}
    for region in annotated.regions:
        is_passed = region in filtered.regions
        statements[region.kind].append((f"{region.text} {region.score:.2f}", is_passed))
        if region.kind == "region":
            _draw_box(regions, region.box, *((REGION,) if is_passed else (DROPPED, "--")))
    _list_below(regions, statements["region"])

    masks = [region for region in annotated.regions if region.kind == "segment"]
    extent = (0, image.width, image.height, 0)
    segments.imshow(colour_segments(image, masks), extent=extent)
    _list_below(segments, statements["segment"])

    for line in annotated.lines:
        style = {"edgecolor": TEXT} if line in filtered.lines else {"edgecolor": DROPPED, "linestyle": "--"}
        texts.add_patch(Polygon(line.quad, fill=False, linewidth=1.5, path_effects=_HALO, **style))
    lines = reading_order(annotated.lines)
    _list_below(texts, [(f"“{line.text}” {line.confidence:.2f}", line in filtered.lines) for line in lines])

    # The place of an image, for the description.
    description.set(xlim=whole.get_xlim(), ylim=whole.get_ylim(), aspect="equal", xticks=[], yticks=[])
    description.set_anchor("N")
    description.grid(False)
    description.spines[:].set_visible(True)
    text = textwrap.fill(filtered.detailed_caption or "nothing", _DESCRIPTION_CHARACTERS)
    description.text(0.04, 0.95, text, transform=description.transAxes, va="top", fontsize=7)

    for ax, title in zip(axes, DESCRIPTION_LEVELS, strict=True):
        ax.set_title(title, fontsize=9)
    return fig


def level_examples(record: Record) -> list[tuple[str, str]]:
    """Return the levels that experts have annotated: level and expert, and the surest statement.

    For `diagrams.draw_description_pipeline`. A level of which no expert said anything is left out.
    """
    # (level, expert) -> (score, statement); a caption may have no score.
    statements: dict[tuple[str, str], list[tuple[float | None, str]]] = {}
    for caption in record.captions:
        statements.setdefault(("whole image", caption.expert), []).append((caption.score, caption.text))
    for region in record.regions:
        statements.setdefault((f"{region.kind}s", region.expert), []).append((region.score, region.text))
    for line in record.lines:
        statements.setdefault(("text", line.expert), []).append((line.confidence, f"“{line.text}”"))

    examples = []
    for (level, expert), of_level in statements.items():
        score, text = max(of_level, key=lambda statement: statement[0] or 0)
        number = "" if score is None else f" {score:.2f}"
        more = f", and {len(of_level) - 1} more" if len(of_level) > 1 else ""
        # An expert that another one depends on comes first, as the segments do that a tagger names.
        examples.append((f"{level}: {expert.split('+')[-1]}", f"{text}{number}{more}"))
    return examples


def _list_below(ax: Axes, statements: Sequence[tuple[str, bool]]) -> None:
    """Write statements below an image, the first ones, and in another colour those that were dropped."""
    height = 0.13  # of a line, as a share of the image
    top, listed = -0.04, sorted(statements, key=lambda statement: not statement[1])[:_MAX_STATEMENTS]
    for text, is_passed in listed:
        wrapped = textwrap.wrap(text, _STATEMENT_CHARACTERS)
        colour = INK if is_passed else DROPPED
        ax.text(0, top, "\n".join(wrapped), transform=ax.transAxes, va="top", fontsize=7.5, color=colour)
        top -= height * len(wrapped)
    if len(statements) > len(listed):
        more = f"and {len(statements) - len(listed)} more"
        ax.text(0, top, more, transform=ax.transAxes, va="top", fontsize=7.5, color=DROPPED)
    if not statements:
        ax.text(0, top, "nothing", transform=ax.transAxes, va="top", fontsize=7.5)


def colour_segments(image: Image.Image, regions: Sequence[Region]) -> np.ndarray:
    """Return a grey image with each mask in a colour, small over large ones: `[H, W, 3]`, 0 to 255."""
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None].repeat(3, axis=2)
    # Pale grey, so that colours stand out.
    canvas = 0.5 * grey + 110

    masks = [region.mask for region in regions if region.mask is not None]
    for number, mask in enumerate(sorted(masks, key=lambda mask: -mask.area)):
        inside = mask.array()
        colour = 255 * np.array(_SEGMENT_COLOURS[number % len(_SEGMENT_COLOURS)])
        canvas[inside] = 0.35 * grey[inside] + 0.65 * colour

    return canvas.clip(0, 255).astype(np.uint8)


# Figures of numbers


def draw_overlap(side: float = 0.1) -> Figure:
    """Draw the overlap of two equal boxes, one shifted sideways: correct, and as in the released code.

    Args:
        side: of the square boxes, as a fraction of the image.
    """
    shifts = np.linspace(0, 4, 161)  # in widths of a box
    fig, ax = plt.subplots(figsize=(5.2, 3))

    for name, overlap in {"released code": released_iou, "correct": iou}.items():
        values = [
            overlap((0, 0, side, side), (shift * side, 0, (shift + 1) * side, side)) for shift in shifts
        ]
        sns.lineplot(x=shifts, y=values, label=name, ax=ax)

    ax.axhline(filtering.SAME_CAPTION_IOU, color=INK, linestyle=":", label="one object from here up")
    ax.axvspan(1, shifts[-1], color=COLOURS[5], alpha=0.12, linewidth=0)
    ax.text(shifts[-1] - 0.05, 0.04, "the boxes don't overlap", ha="right")
    ax.set(xlabel="shift in widths of the box", ylabel="overlap", ylim=(0, 1.02), xlim=(0, shifts[-1]))
    ax.legend(loc="upper right")
    return fig


def draw_thresholds(rows: Sequence[Row], marks: Sequence[Row]) -> Figure:
    """Draw how many statements of each expert pass a threshold, right ones and wrong ones.

    Args:
        rows: counts by threshold (`expert`, `threshold`, `right`, `wrong`).
        marks: thresholds to mark (`expert`, `calibration`, `threshold`): those "before" and "after".
    """
    frame = pd.DataFrame(rows)
    experts = list(dict.fromkeys(frame["expert"]))
    fig, axes = plt.subplots(1, len(experts), figsize=(2.9 * len(experts), 2.6), squeeze=False, sharey=True)

    for ax, expert in zip(axes.flat, experts, strict=True):
        counts = frame[frame["expert"] == expert].melt("threshold", ["right", "wrong"], "statements")
        sns.lineplot(
            counts,
            x="threshold",
            y="value",
            hue="statements",
            palette=[REGION, DROPPED],
            drawstyle="steps-post",
            ax=ax,
        )
        for mark in marks:
            if mark["expert"] == expert and mark["calibration"] in _THRESHOLD_STYLES:
                style, label = _THRESHOLD_STYLES[mark["calibration"]]
                ax.axvline(float(mark["threshold"]), color=INK, linestyle=style, linewidth=1, label=label)
        ax.get_legend().remove()
        ax.set(title=EXPERT_TITLES.get(expert, expert), ylabel="statements that pass", xlim=(0.25, 1))
    axes[0, 0].set_ylim(bottom=0)

    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return fig


def draw_levels(rows: Sequence[Row], metrics: Sequence[str], columns: int = 4) -> Figure:
    """Draw a panel for each metric: its value, with 95 % intervals, from the original caption to the texts.

    Args:
        rows: scores of the levels (`level`, `filter`, `metric`, `value`, `low`, `high`).
        metrics: the panels, in their order.
        columns: panels in a row.

    Raises:
        ValueError: there are no rows of a metric.
    """
    frame = pd.DataFrame(rows)
    levels = list(dict.fromkeys(frame["level"]))
    filters = [name for name in FILTERS if name in set(frame["filter"])]

    # Rows of panels, rounded up
    height = -(-len(metrics) // columns)
    size = (2.9 * columns, 2.4 * height + 0.4)
    fig, axes = plt.subplots(height, columns, figsize=size, squeeze=False, sharex=True)

    for ax, metric in zip(axes.flat, metrics, strict=False):
        scores = frame[frame["metric"] == metric]
        if scores.empty:
            raise ValueError(f"There are no rows of {metric!r} to draw.")
        _draw_level_points(ax, scores, levels, filters)
        ax.set(title=metric, xlabel="", ylabel="", ylim=(0, None if metric == "CIDEr-D" else 1.05))

    for ax in axes.flat[len(metrics) :]:
        ax.set_axis_off()
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(filters))
    return fig


def _draw_level_points(ax: Axes, scores: pd.DataFrame, levels: Sequence[str], filters: Sequence[str]) -> None:
    """Draw a point at each level for each filter, shifted a little so that points do not overlap."""
    for number, name in enumerate(filters):
        line = scores[scores["filter"] == name]
        # The middle filter stands on its level, the others to either side.
        x = line["level"].map(levels.index) + 0.12 * (number - 1)

        colour = COLOURS[number]
        sns.scatterplot(x=x, y=line["value"], color=colour, label=FILTERS[name], legend=False, ax=ax)
        draw_intervals(ax, x, line["value"], line["low"], line["high"], color=colour)

    ax.set_xticks(range(len(levels)), levels, rotation=35, ha="right")
    ax.set_xlim(-0.4, len(levels) - 0.6)
