"""Where the numbers of boxes go, so that none is cut and none covers another."""

from collections.abc import Sequence

from monkeylib.captions.annotations import Box

_SPARE = 0.5  # of a label's size: the steps of the search for a free place


def place(
    boxes: Sequence[Box], labels: Sequence[tuple[float, float]], size: tuple[float, float]
) -> list[tuple[float, float]]:
    """The top left corners of labels, one for each box, inside a picture.

    At a corner of its box if one is free (outside of a box that the label would hide), else at the nearest
    free place; where there is none, the label covers as little of others as it can.

    Args:
        boxes: what the labels belong to.
        labels: width and height of each.
        size: width and height of the picture.
    """
    placed: list[Box] = []
    for box, label in zip(boxes, labels, strict=True):
        x, y = _free(box, label, size, placed)
        placed.append((x, y, x + label[0], y + label[1]))
    return [(x, y) for x, y, _, _ in placed]


def _free(
    box: Box, label: tuple[float, float], size: tuple[float, float], placed: Sequence[Box]
) -> tuple[float, float]:
    covered: dict[tuple[float, float], float] = {}
    for spots in (_corners(box, label), _everywhere(box, label, size)):
        for spot in spots:
            x, y = (min(max(0.0, spot[i]), max(0.0, size[i] - label[i])) for i in (0, 1))
            covered[x, y] = sum(_shared((x, y, x + label[0], y + label[1]), other) for other in placed)
            if not covered[x, y]:
                return x, y
    return min(covered, key=covered.__getitem__)


def _corners(box: Box, label: tuple[float, float]) -> list[tuple[float, float]]:
    """Places at the corners of a box, inside and outside."""
    x0, y0, x1, y1 = box
    width, height = label
    inside = [(x, y) for y in (y0, y1 - height) for x in (x0, x1 - width)]
    beside = [(x0 - width, y0), (x1, y0)]
    outside = [*beside, *((x, y) for y in (y0 - height, y1) for x in (x0, x1 - width))]
    small = x1 - x0 < 3 * width or y1 - y0 < 2 * height
    return [*outside, *inside] if small else [*inside, *outside]


def _everywhere(box: Box, label: tuple[float, float], size: tuple[float, float]) -> list[tuple[float, float]]:
    """Places all over the picture, those next to the box's first corner first."""
    columns, rows = (max(1, int(size[i] / (label[i] * _SPARE))) for i in (0, 1))
    spots = [
        (column * label[0] * _SPARE, row * label[1] * _SPARE)
        for column in range(columns)
        for row in range(rows)
    ]
    return sorted(spots, key=lambda spot: (spot[0] - box[0]) ** 2 + (spot[1] - box[1]) ** 2)


def _shared(first: Box, second: Box) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)
