"""Dense labels: what is written or drawn at every point of a view. They teach a tiny ViT to read before any
language model is involved."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monkeylib.boxes import Box
from monkeylib.data.synthetic.samples import LEGIBLE, Sample
from monkeylib.data.synthetic.scenes import COLOURS, OBJECTS
from monkeylib.prompts import IGNORE_INDEX

CHARS = "abcdefghijklmnopqrstuvwxyz0123456789.:-"
CHAR_CLASSES = 1 + len(CHARS)  # 0: nothing written here
OBJECT_CLASSES = 2 + len(OBJECTS)  # 0: no object, last: a sign's plate
COLOUR_CLASSES = 1 + len(COLOURS)


@dataclass(frozen=True)
class DenseLabels:
    """Class indices at the centres of `points x points` cells of a view; `IGNORE_INDEX` where text is too
    small to read."""

    chars: NDArray[np.int64]
    objects: NDArray[np.int64]
    colours: NDArray[np.int64]


def _cells(box: Box, view: Box, points: int) -> tuple[slice, slice]:
    """The rows and columns whose centres lie in `box`."""
    sx, sy = points / (view[2] - view[0]), points / (view[3] - view[1])
    edges = (
        (box[1] - view[1]) * sy,
        (box[3] - view[1]) * sy,
        (box[0] - view[0]) * sx,
        (box[2] - view[0]) * sx,
    )
    y0, y1, x0, x1 = (min(max(math.ceil(e - 0.5), 0), points) for e in edges)
    return slice(y0, y1), slice(x0, x1)


def dense_labels(sample: Sample, view: Box, view_size: int, points: int) -> DenseLabels:
    """Labels of the part `view` (pixels of the full image) of a sample, seen as `view_size` pixels.

    Args:
        points: label points along each side; each is the centre of a cell of `view_size / points` pixels.

    Returns:
        Three `[points, points]` arrays. Text below `LEGIBLE` pixels in the view is marked `IGNORE_INDEX`.
    """
    chars, objects, colours = (np.zeros((points, points), np.int64) for _ in range(3))
    scale = view_size / min(view[2] - view[0], view[3] - view[1])
    names = list(COLOURS)
    for drawn in sample.objects:
        cells = _cells(drawn.box, view, points)
        objects[cells], colours[cells] = 1 + OBJECTS.index(drawn.name), 1 + names.index(drawn.colour)
    for sign in sample.signs:
        cells = _cells(sign.box, view, points)
        objects[cells], colours[cells] = OBJECT_CLASSES - 1, 1 + names.index(sign.colour)
    for text in sample.texts:
        legible = text.height * scale >= LEGIBLE
        for glyph in text.glyphs:
            chars[_cells(glyph.box, view, points)] = 1 + CHARS.index(glyph.char) if legible else IGNORE_INDEX
    return DenseLabels(chars, objects, colours)
