"""Dense labels: what is written or drawn at every point of a view.

They teach a tiny ViT to read before any language model is involved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monkeylib.boxes import Box
from monkeylib.data.synthetic.samples import LEGIBLE, Sample
from monkeylib.data.synthetic.scenes import COLOURS, OBJECTS
from monkeylib.label_mask import IGNORE_INDEX

CHARS = "abcdefghijklmnopqrstuvwxyz0123456789.:-"
CHAR_CLASSES = 1 + len(CHARS)  # 0: nothing written here
OBJECT_CLASSES = 2 + len(OBJECTS)  # 0: no object, last: a sign's plate
COLOUR_CLASSES = 1 + len(COLOURS)  # 0: background


@dataclass(frozen=True)
class DenseLabels:
    """Class indices at the centres of `points x points` cells of a view.

    Characters are `IGNORE_INDEX` where text is too small to read.
    """

    chars: NDArray[np.int64]
    objects: NDArray[np.int64]
    colours: NDArray[np.int64]


def dense_labels(sample: Sample, view: Box, view_size: int, points: int) -> DenseLabels:
    """Return the labels of a part of a sample that is shown as one view.

    Args:
        sample: the image and what it shows.
        view: the part, in pixels of the full image.
        view_size: side of the view in pixels.
        points: label points along each side; each is the centre of a cell of `view_size / points` pixels.

    Returns:
        Three `[points, points]` arrays. Text below `LEGIBLE` pixels in the view is marked `IGNORE_INDEX`.
    """
    chars = np.zeros((points, points), np.int64)
    objects = np.zeros((points, points), np.int64)
    colours = np.zeros((points, points), np.int64)
    colour_names = list(COLOURS)

    for drawn in sample.objects:
        cells = _cells(drawn.box, view, points)
        objects[cells] = 1 + OBJECTS.index(drawn.name)
        colours[cells] = 1 + colour_names.index(drawn.colour)

    for sign in sample.signs:
        cells = _cells(sign.box, view, points)
        objects[cells] = OBJECT_CLASSES - 1
        colours[cells] = 1 + colour_names.index(sign.colour)

    # Pixels of the view per pixel of the image.
    scale = view_size / min(view[2] - view[0], view[3] - view[1])
    for text in sample.texts:
        is_legible = text.height * scale >= LEGIBLE
        for glyph in text.glyphs:
            label = 1 + CHARS.index(glyph.char) if is_legible else IGNORE_INDEX
            chars[_cells(glyph.box, view, points)] = label

    return DenseLabels(chars, objects, colours)


def _cells(box: Box, view: Box, points: int) -> tuple[slice, slice]:
    """Return the rows and columns whose centres lie in `box`."""
    x_scale = points / (view[2] - view[0])
    y_scale = points / (view[3] - view[1])
    edges = (
        (box[1] - view[1]) * y_scale,
        (box[3] - view[1]) * y_scale,
        (box[0] - view[0]) * x_scale,
        (box[2] - view[0]) * x_scale,
    )

    # The centre of cell i lies at i + 0.5; edges outside of the view are clipped.
    y0, y1, x0, x1 = (min(max(math.ceil(edge - 0.5), 0), points) for edge in edges)
    return slice(y0, y1), slice(x0, x1)
