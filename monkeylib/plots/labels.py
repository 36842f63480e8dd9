"""Labels of a figure that overlap: which do, and how to move them apart."""

from collections.abc import Iterator, Sequence
from itertools import combinations

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

_TOUCHING = 2.0  # points that two labels may share: letters do not fill their boxes
_PADDING = 2.0  # points around a label that is moved, for its coloured background
_MOST_STEPS = 12  # that a label is moved up or down, each by half its height


def overlapping_labels(fig: Figure) -> list[tuple[str, str]]:
    """Return the pairs of texts of a drawn figure whose boxes overlap.

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


def separate_labels(labels: Sequence[Text]) -> None:
    """Move labels within their axes up or down until none overlaps; one without room is hidden.

    Args:
        labels: of any axes of one figure, the most important first.
    """
    if not labels:
        return
    fig = labels[0].get_figure()
    fig.canvas.draw()
    padding = _PADDING * fig.dpi / 72

    placed: list[Bbox] = []
    for label in labels:
        box = label.get_window_extent()
        around = label.axes.get_window_extent()

        # Into the axes sideways, then to the nearest free height.
        sideways = max(around.x0 - box.x0, 0) or min(around.x1 - box.x1, 0)
        for step in sorted(range(-_MOST_STEPS, _MOST_STEPS + 1), key=abs):
            up = step * box.height / 2
            moved = box.translated(sideways, up)
            is_inside = around.y0 <= moved.y0 and moved.y1 <= around.y1
            is_free = not any(_overlap(moved.padded(padding), other, 0) for other in placed)
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
