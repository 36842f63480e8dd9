"""Axis-aligned boxes and their arithmetic.

A box is a tuple (x0, y0, x1, y1): its left, top, right and bottom edges, with y pointing down. The functions
work in any unit, as long as both boxes use the same one: pixels, or fractions of the image's size.
"""

from collections.abc import Iterable, Sequence

Box = tuple[float, float, float, float]
Point = tuple[float, float]


def area(box: Box) -> float:
    """Return width times height."""
    x0, y0, x1, y1 = box
    return (x1 - x0) * (y1 - y0)


def intersection_area(first: Box, second: Box) -> float:
    """Return the area that two boxes share, 0 where they do not overlap."""
    # Negative where the boxes lie apart on that axis.
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)


def iou(first: Box, second: Box) -> float:
    """Return intersection over union, 0..1; 0 for boxes without area."""
    intersection = intersection_area(first, second)
    union = area(first) + area(second) - intersection
    return intersection / union if union > 0 else 0.0


def released_iou(first: Box, second: Box) -> float:
    """Return the overlap as the released data generation computes it.

    It adds one pixel to every side length, although its boxes are fractions of the image. Distinct objects
    therefore count as one: two touching boxes a tenth of the image wide score 0.83.
    """
    width = min(first[2], second[2]) - max(first[0], second[0]) + 1.0
    height = min(first[3], second[3]) - max(first[1], second[1]) + 1.0
    intersection = max(0.0, width) * max(0.0, height)

    first_area = (first[2] - first[0] + 1.0) * (first[3] - first[1] + 1.0)
    second_area = (second[2] - second[0] + 1.0) * (second[3] - second[1] + 1.0)
    return intersection / (first_area + second_area - intersection)


def overlap_of_smaller(first: Box, second: Box) -> float:
    """Return the share of the smaller box that lies inside the other, 0..1; 0 for boxes without area."""
    # Rounding can give a share just above 1.
    smaller = min(area(first), area(second))
    return min(1.0, intersection_area(first, second) / smaller) if smaller > 0 else 0.0


def touch(first: Box, second: Box) -> bool:
    """Return whether two boxes overlap or share an edge or a corner."""
    return (
        first[0] <= second[2]
        and second[0] <= first[2]
        and first[1] <= second[3]
        and second[1] <= first[3]
    )  # fmt: skip


def contains(outer: Box, inner: Box) -> bool:
    """Return whether `inner` lies inside `outer`, edges included."""
    return (
        outer[0] <= inner[0]
        and outer[1] <= inner[1]
        and inner[2] <= outer[2]
        and inner[3] <= outer[3]
    )  # fmt: skip


def enclosing_box(*boxes: Box) -> Box:
    """Return the smallest box around all of `boxes`, their union."""
    return (
        min(box[0] for box in boxes),
        min(box[1] for box in boxes),
        max(box[2] for box in boxes),
        max(box[3] for box in boxes),
    )


def bounding_box(points: Iterable[Point]) -> Box:
    """Return the smallest upright box around points, such as the corners of a rotated line of text."""
    # [(x, y), ...] -> all x, all y
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def bounding_boxes(polygons: Iterable[Iterable[Point]]) -> list[Box]:
    """Return the bounding box of each polygon."""
    return [bounding_box(points) for points in polygons]


def clip(box: Box, size: tuple[int, int]) -> Box:
    """Return the part of a box that lies inside an image of `size` (width, height) in pixels."""
    x0, y0, x1, y1 = box
    return max(0.0, x0), max(0.0, y0), min(float(size[0]), x1), min(float(size[1]), y1)


def normalise(box: Box, size: tuple[int, int]) -> Box:
    """Return a box in pixels as fractions of the image's `size` (width, height)."""
    x0, y0, x1, y1 = box
    return x0 / size[0], y0 / size[1], x1 / size[0], y1 / size[1]


def center(box: Box) -> Point:
    """Return the (x, y) of a box's centre."""
    x0, y0, x1, y1 = box
    return (x0 + x1) / 2, (y0 + y1) / 2


def reading_order(boxes: Sequence[Box]) -> list[int]:
    """Return the indices of boxes row by row from the top, each row from left to right."""
    middles = [center(box)[1] for box in boxes]
    from_top = sorted(range(len(boxes)), key=lambda index: middles[index])

    # A box whose middle lies above the bottom of a row's first box is on one level with it.
    rows: list[list[int]] = []
    for index in from_top:
        if rows and middles[index] < boxes[rows[-1][0]][3]:
            rows[-1].append(index)
        else:
            rows.append([index])

    return [index for row in rows for index in sorted(row, key=lambda index: boxes[index][0])]
