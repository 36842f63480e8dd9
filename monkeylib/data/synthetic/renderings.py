"""Renderings of synthetic images: whether their quadrants are transformed, and each in which way.

LoRA for each tile can only be worth more than a shared one where tiles of different positions need
different encoders. A rendering makes them need it, or takes the need away, with the same images:

- `ordinary`: images as they are drawn.
- `fixed`: each quadrant is transformed in its own way, which its position decides: `QUADRANTS`.
- `dealt`: the same four transforms are dealt to the quadrants anew for each image.

Questions, answers, captions and boxes are those of the image before it is transformed, and the same in
`fixed` and `dealt`. These rules keep them true, and keep each question in reach of an encoder of tiles:

- A quadrant is transformed in itself, so that everything stays in its quadrant.
- Inversion turns lightness around and keeps hue and chroma: a red sign stays red. White and black would
  change places, so nothing has these colours where images are transformed.
- Objects and signs lie within one quadrant. Lines of a document may cross the middle, where a transform
  cuts them in two: nothing is asked that needs such a line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageFilter

from monkeylib.boxes import Box
from monkeylib.errors import choose

RENDERINGS = ("ordinary", "fixed", "dealt")

# Number of the stream of random numbers that deals the transforms.
_STREAM = 41
_FAINT = 35  # percent of the contrast that is left
_GREY = 128


def _invert(image: Image.Image) -> Image.Image:
    """Turn lightness around: the mean of the largest and the smallest channel becomes 255 minus itself."""
    pixels = np.asarray(image).astype(np.int16)  # [H, W, 3]
    shift = 255 - pixels.max(-1, keepdims=True) - pixels.min(-1, keepdims=True)
    return Image.fromarray((pixels + shift).astype(np.uint8))


def _turn(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.ROTATE_180)


def _mirror(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _fade(image: Image.Image) -> Image.Image:
    # In whole numbers, with half a percent added to round.
    curve = [(_GREY * (100 - _FAINT) + value * _FAINT + 50) // 100 for value in range(256)]
    return image.point(curve * 3)


def _thin(image: Image.Image) -> Image.Image:
    """Take a pixel off dark strokes, and add one to light strokes."""
    return image.filter(ImageFilter.MaxFilter(3))


def _blur(image: Image.Image) -> Image.Image:
    """Average each pixel with its neighbours, weighted 1, 2, 1 in both directions."""
    return image.filter(ImageFilter.Kernel((3, 3), (1, 2, 1, 2, 4, 2, 1, 2, 1)))


TRANSFORMS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "none": Image.Image.copy,
    "inverted": _invert,
    "half-turned": _turn,
    "mirrored": _mirror,
    "faint": _fade,
    "thin": _thin,
    "blurred": _blur,
}

# Transforms of the quadrants in `fixed`: top left, top right, bottom left, bottom right. Each costs nano-base
# some of its answers in validation images.
QUADRANTS = ("inverted", "half-turned", "mirrored", "faint")


def quadrant_boxes(size: tuple[int, int]) -> tuple[tuple[int, int, int, int], ...]:
    """Return the boxes of the quadrants in pixels: top left, top right, bottom left, bottom right."""
    width, height = size
    x, y = width // 2, height // 2
    return (0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)


def is_cut(box: Box, size: tuple[int, int]) -> bool:
    """Return whether a border between quadrants runs through a box."""
    _, _, x, y = quadrant_boxes(size)[0]
    return box[0] < x < box[2] or box[1] < y < box[3]


def quadrant_transforms(rendering: str, seed: int) -> tuple[str, ...]:
    """Return the transform of each quadrant of image number `seed`, in the order of `quadrant_boxes`.

    Raises:
        ValueError: unknown rendering.
    """
    choose("rendering", rendering, RENDERINGS)
    if rendering == "ordinary":
        return ("none",) * 4
    if rendering == "fixed":
        return QUADRANTS

    order = np.random.default_rng([_STREAM, seed]).permutation(4)
    return tuple(QUADRANTS[number] for number in order)


def transform_quadrants(image: Image.Image, transforms: Sequence[str]) -> Image.Image:
    """Return an RGB image with each quadrant transformed in itself.

    Args:
        image: RGB.
        transforms: names of `TRANSFORMS`, in the order of `quadrant_boxes`.

    Raises:
        ValueError: unknown transform.
    """
    transformed = image.copy()
    for box, name in zip(quadrant_boxes(image.size), transforms, strict=True):
        transform = TRANSFORMS[choose("transform", name, TRANSFORMS)]
        transformed.paste(transform(image.crop(box)), box[:2])

    return transformed


def render(image: Image.Image, rendering: str, seed: int) -> Image.Image:
    """Return image number `seed` in a rendering: the same pixels on every machine.

    Raises:
        ValueError: unknown rendering.
    """
    transforms = quadrant_transforms(rendering, seed)
    return image if rendering == "ordinary" else transform_quadrants(image, transforms)


def transforms_at(box: Box, size: tuple[int, int], rendering: str, seed: int) -> list[str]:
    """Return the transforms of the quadrants of image number `seed` that a box reaches into."""
    reached = []
    for (x0, y0, x1, y1), name in zip(
        quadrant_boxes(size), quadrant_transforms(rendering, seed), strict=True
    ):
        if box[0] < x1 and box[2] > x0 and box[1] < y1 and box[3] > y0:
            reached.append(name)

    return reached
