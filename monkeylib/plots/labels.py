"""Labels of a figure that overlap each other or lie on markers: which do, and how to move them apart."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Bbox

MARKER = "marker"  # what a label is paired with that lies on a point of the data

_TOUCHING = 2.0  # points that two labels may share: letters do not fill their boxes
_PADDING = 2.0  # points around a label that is moved, for its coloured background
_MOST_STEPS = 12  # that a label is moved up or down, each by half its height


def overlapping_labels(fig: Figure) -> list[tuple[str, str]]:
    """Return the pairs of texts of a drawn figure whose boxes overlap, and texts on a marker with "marker".

    Labels of one axis that are turned by the same angle are left out: their boxes overlap, their letters do
    not.

    Args:
        fig: the figure, which is laid out and drawn for this.
    """
    fig.canvas.draw()
    room = _TOUCHING * fig.dpi / 72
    boxes = [(text, text.get_window_extent()) for text in _drawn_texts(fig)]

    pairs = []
    for (first, first_box), (second, second_box) in combinations(boxes, 2):
        if first.get_rotation() == second.get_rotation() and first.get_rotation() % 90:
            continue
        if _overlap(first_box, second_box, room):
            pairs.append((first.get_text(), second.get_text()))

    markers = [box for ax in fig.axes for box in _drawn_markers(ax)]
    pairs += [
        (text.get_text(), MARKER) for text, box in boxes if any(_overlap(box, one, room) for one in markers)
    ]
    return pairs


def _overlap(first: Bbox, second: Bbox, room: float) -> bool:
    """Return whether two boxes share more than `room` pixels in both directions."""
    width = min(first.x1, second.x1) - max(first.x0, second.x0)
    height = min(first.y1, second.y1) - max(first.y0, second.y0)
    return width > room and height > room


def _drawn_texts(fig: Figure) -> Iterator[Text]:
    """Yield the texts of a figure that are drawn and not blank."""
    hidden = {id(text) for ax in fig.axes for text in _hidden_texts(ax)}
    for text in fig.findobj(Text):
        if text.get_visible() and text.get_text().strip() and id(text) not in hidden:
            yield text


def _hidden_texts(ax: Axes) -> Iterator[Text]:
    """Yield the texts of axes that matplotlib has, but does not draw."""
    if not ax.get_visible():
        yield from ax.findobj(Text)
        return

    for axis in (ax.xaxis, ax.yaxis):
        texts = set(axis.findobj(Text))
        if ax.axison and axis.get_visible():
            texts -= _drawn_axis_texts(axis)
        yield from texts


def _drawn_axis_texts(axis: Axis) -> set[Text]:
    """Return the label of an axis, and those of its ticks that lie within the axes."""
    low, high = sorted(axis.get_view_interval())
    drawn = {axis.label, axis.offsetText}
    for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
        if tick.get_visible() and low <= tick.get_loc() <= high:
            drawn |= {label for label in (tick.label1, tick.label2) if label.get_visible()}
    return drawn


def _drawn_markers(ax: Axes) -> Iterator[Bbox]:
    """Yield the boxes of the markers that lines and scattered points of axes have within them, in pixels."""
    if not ax.get_visible():
        return
    points_to_pixels = ax.get_figure(root=True).dpi / 72
    within = ax.get_window_extent()

    for centres, shapes in _markers(ax):
        for (x, y), shape in zip(centres, shapes, strict=True):
            if within.contains(x, y):
                width_height = shape * points_to_pixels
                yield Bbox(width_height + [x, y])


def _markers(ax: Axes) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Yield the centres `[points, 2]` of each series in pixels, and the corners around a centre in points."""
    for line in ax.lines:
        if line.get_visible() and line.get_marker() not in ("", " ", "None", None):
            centres = line.get_transform().transform(line.get_xydata()[_drawn_points(line)])
            style = MarkerStyle(line.get_marker())
            shape = _corners(style.get_path().transformed(style.get_transform())) * line.get_markersize()
            yield centres, [shape] * len(centres)

    for points in ax.collections:
        if isinstance(points, PathCollection) and points.get_visible() and len(points.get_sizes()):
            centres = points.get_offset_transform().transform(np.ma.getdata(points.get_offsets()))
            paths, sizes = points.get_paths(), points.get_sizes()
            # Sizes are areas in square points; there may be fewer of them than points.
            yield (
                centres,
                [
                    _corners(paths[number % len(paths)]) * sizes[number % len(sizes)] ** 0.5
                    for number in range(len(centres))
                ],
            )


def _drawn_points(line: Line2D) -> slice | np.ndarray:
    """Return which points of a line have a marker."""
    every = line.get_markevery()
    if every is None:
        return slice(None)
    return slice(0, None, every) if isinstance(every, int) else np.asarray(every)


def _corners(shape: Path) -> np.ndarray:
    """Return the lower left and the upper right corner of a shape."""
    return shape.get_extents().get_points()


def separate_labels(labels: Sequence[Text]) -> None:
    """Move labels within their axes up or down until none overlaps another or a marker of its axes.

    A label without room is hidden.

    Args:
        labels: of any axes of one figure, the most important first.
    """
    if not labels:
        return
    fig = labels[0].get_figure()
    fig.canvas.draw()
    padding = _PADDING * fig.dpi / 72

    placed: list[Bbox] = []
    markers = {ax: list(_drawn_markers(ax)) for ax in {label.axes for label in labels}}
    for label in labels:
        box = label.get_window_extent()
        around = label.axes.get_window_extent()

        # Into the axes sideways, then to the nearest free height.
        sideways = max(around.x0 - box.x0, 0) or min(around.x1 - box.x1, 0)
        for step in sorted(range(-_MOST_STEPS, _MOST_STEPS + 1), key=abs):
            up = step * box.height / 2
            moved = box.translated(sideways, up)
            is_inside = around.y0 <= moved.y0 and moved.y1 <= around.y1
            is_free = not any(_overlap(moved.padded(padding), other, 0) for other in placed) and not any(
                _overlap(moved, marker, 0) for marker in markers[label.axes]
            )
            # A label that has stood a little outside stays where it is.
            if is_free and (is_inside or step == 0):
                placed.append(moved.padded(padding))
                _move(label, sideways, up)
                break
        else:
            label.set_visible(False)


def _move(label: Text, right: float, up: float) -> None:
    """Move a label by pixels of the figure; one that stays keeps its exact position."""
    if not right and not up:
        return
    transform = label.get_transform()
    x, y = transform.transform(label.get_position())
    label.set_position(transform.inverted().transform((x + right, y + up)))
