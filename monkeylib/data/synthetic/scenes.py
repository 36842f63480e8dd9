"""Photographs with drawn objects (captions, general questions) or with signs (scene text)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.random import Generator
from PIL import Image, ImageDraw

from monkeylib.boxes import Box, center
from monkeylib.data.synthetic import words
from monkeylib.data.synthetic.canvas import STYLE, Style, Text, draw_text, photo_background, text_width
from monkeylib.data.synthetic.renderings import quadrant_boxes

COLOURS = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (245, 210, 40),
    "orange": (245, 130, 30),
    "purple": (140, 50, 170),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
OBJECTS = ("ball", "box", "star", "ring", "cross", "heart", "arrow", "house", "tree", "fish", "moon", "kite")
NUMBERS = ("zero", "one", "two", "three", "four", "five")

# Colours that keep their names where quadrants are transformed (`renderings`).
_LASTING_COLOURS = tuple(colour for colour in COLOURS if colour not in ("white", "black"))

_OVERSAMPLING = 4  # objects are drawn at this multiple of their size, then averaged down
_MARGIN = 2  # pixels between two boxes, and between a box and the edge of the image


@dataclass(frozen=True)
class DrawnObject:
    """An object drawn on a photograph.

    Attributes:
        name: one of `OBJECTS`.
        colour: one of `COLOURS`.
        box: in pixels.
        location: quadrant of the image that holds the centre of the box, such as "top left".
    """

    name: str
    colour: str
    box: Box
    location: str


@dataclass(frozen=True)
class Sign:
    """A coloured plate with one line of text; see `DrawnObject` for the fields."""

    colour: str
    box: Box
    text: Text
    location: str


def quadrant_of(box: Box, size: tuple[int, int]) -> str:
    """Return the quadrant that holds the centre of a box, such as "top left"."""
    # y points down.
    x, y = center(box)
    vertical = "top" if y < size[1] / 2 else "bottom"
    horizontal = "left" if x < size[0] / 2 else "right"
    return f"{vertical} {horizontal}"


# --- shapes: polygons in the unit square ----------------------------------------------------------


def _star(points: int, inner: float, turn: float = -math.pi / 2) -> list[tuple[float, float]]:
    """Return the corners of a star whose inner radius is the share `inner` of the outer one."""
    corners = []
    for i in range(2 * points):
        radius = 1.0 if i % 2 == 0 else inner
        angle = turn + math.pi * i / points
        corners.append((0.5 + radius / 2 * math.cos(angle), 0.5 + radius / 2 * math.sin(angle)))

    return corners


_HEART = [
    (
        0.5 + 0.5 * math.sin(t) ** 3,
        0.45 - (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 32,
    )
    for t in [2 * math.pi * i / 28 for i in range(28)]
]
_POLYGONS: dict[str, list[list[tuple[float, float]]]] = {
    "box": [[(0, 0), (1, 0), (1, 1), (0, 1)]],
    "star": [_star(5, 0.42)],
    "cross": [
        [
            (0.33, 0),
            (0.67, 0),
            (0.67, 0.33),
            (1, 0.33),
            (1, 0.67),
            (0.67, 0.67),
            (0.67, 1),
            (0.33, 1),
            (0.33, 0.67),
            (0, 0.67),
            (0, 0.33),
            (0.33, 0.33),
        ]
    ],
    "heart": [_HEART],
    "arrow": [[(0, 0.35), (0.55, 0.35), (0.55, 0.08), (1, 0.5), (0.55, 0.92), (0.55, 0.65), (0, 0.65)]],
    "house": [[(0.1, 0.45), (0.9, 0.45), (0.9, 1), (0.1, 1)], [(0, 0.5), (0.5, 0), (1, 0.5)]],
    "tree": [
        [(0.42, 0.65), (0.58, 0.65), (0.58, 1), (0.42, 1)],
        [(0.5, 0), (0.92, 0.42), (0.08, 0.42)],
        [(0.5, 0.22), (1, 0.75), (0, 0.75)],
    ],
    "fish": [
        [(0.72, 0.5), (1, 0.15), (1, 0.85)],
        [(0, 0.5), (0.2, 0.25), (0.45, 0.17), (0.8, 0.5), (0.45, 0.83), (0.2, 0.75)],
    ],
    "kite": [[(0.5, 0), (0.88, 0.36), (0.5, 1), (0.12, 0.36)]],
}


def draw_object(image: Image.Image, name: str, colour: str, box: Box) -> None:
    """Draw an object that fills `box`, with a thin outline that sets it off from any photograph."""
    x0, y0, x1, y1 = (round(edge) for edge in box)
    width, height = x1 - x0, y1 - y0

    # The shape as a mask, drawn large and averaged down.
    w, h = _OVERSAMPLING * width, _OVERSAMPLING * height
    mask = Image.new("L", (w, h), 0)
    pen = ImageDraw.Draw(mask)
    if name in _POLYGONS:
        for polygon in _POLYGONS[name]:
            pen.polygon([(w * x, h * y) for x, y in polygon], fill=255)
    else:  # ball, ring, moon
        pen.ellipse((0, 0, w - 1, h - 1), fill=255)
        if name == "ring":
            pen.ellipse((width, height, 3 * width, 3 * height), fill=0)
        if name == "moon":
            pen.ellipse((1.4 * width, -0.4 * height, 5.2 * width, 3.4 * height), fill=0)

    mask = mask.resize((width, height), Image.Resampling.BOX)

    # The outline is the mask moved by one pixel to each side, below the object itself.
    outline = (20, 20, 20) if colour != "black" else (235, 235, 235)
    for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        image.paste(outline, (x0 + dx, y0 + dy), mask)
    image.paste(COLOURS[colour], (x0, y0), mask)


def _free_box(
    rng: Generator,
    size: tuple[int, int],
    width: float,
    height: float,
    taken: list[Box],
    in_quadrant: bool,
) -> Box | None:
    """Find a box that keeps clear of those taken and whose centre lies clearly in one quadrant.

    With `in_quadrant`, all of the box does.

    Returns:
        The box, or None after 30 tries.
    """
    for _ in range(30):
        left, top, right, bottom = (0, 0, *size)
        if in_quadrant:
            left, top, right, bottom = quadrant_boxes(size)[rng.integers(4)]

        # A margin of two pixels to the edges.
        x = rng.uniform(left + 2, max(left + 3, right - width - 2))
        y = rng.uniform(top + 2, max(top + 3, bottom - height - 2))
        box = (x, y, x + width, y + height)

        # Near the middle lines, words such as "top left" would be ambiguous.
        in_one_quadrant = (
            abs((x + width / 2) / size[0] - 0.5) > 0.06 and abs((y + height / 2) / size[1] - 0.5) > 0.06
        )
        if in_one_quadrant and all(_keep_clear(box, taken_box) for taken_box in taken):
            return box

    return None


def _keep_clear(first: Box, second: Box) -> bool:
    """Return whether there is a margin between two boxes."""
    return (
        first[0] > second[2] + _MARGIN
        or second[0] > first[2] + _MARGIN
        or first[1] > second[3] + _MARGIN
        or second[1] > first[3] + _MARGIN
    )


def make_scene(
    rng: Generator, split: str, size: tuple[int, int], style: Style = STYLE
) -> tuple[Image.Image, list[DrawnObject]]:
    """Draw one to five objects on a photograph.

    Args:
        rng: random numbers.
        split: split of the photograph.
        size: width and height in pixels.
        style: what the image is drawn with.

    Returns:
        The image, and its objects: those in the upper half first, each half from left to right.
    """
    image = photo_background(rng, split, size, style)

    # Up to three kinds of objects, each once or, less often, up to three times.
    names: list[str] = []
    for name in words.pick(rng, OBJECTS, int(rng.integers(1, 4))):
        repeat = int(rng.integers(1, 4)) if rng.random() < 0.4 else 1
        names += [name] * repeat

    objects: list[DrawnObject] = []
    for name in names[:5]:
        # A sixth to a third of the image's shorter side.
        width = rng.uniform(0.17, 0.32) * min(size)
        height = width * rng.uniform(0.85, 1.15)
        box = _free_box(rng, size, width, height, [drawn.box for drawn in objects], style.by_quadrant)
        if box is None:
            continue

        colour = words.pick(rng, _LASTING_COLOURS if style.by_quadrant else tuple(COLOURS))[0]
        draw_object(image, name, colour, box)
        objects.append(DrawnObject(name, colour, box, quadrant_of(box, size)))

    return image, sorted(objects, key=lambda drawn: (drawn.box[1] > size[1] / 2, drawn.box[0]))


def sign_text(rng: Generator, split: str, limit: float, name: str, height: int, upper: bool) -> str:
    """Draw one to three words that fit into `limit` pixels and whose pair ("sign", words) is of the split."""

    def draw() -> str:
        # Fewer words when they do not fit.
        for count in (int(rng.integers(1, 4)), 2, 1, 1, 1):
            string = " ".join(words.pick(rng, words.SIGN_WORDS, count))
            # Some signs have a number instead, such as "gate 12".
            if rng.random() < 0.25:
                string = f"{words.pick(rng, words.SIGN_WORDS)[0]} {rng.integers(1, 100)}"

            if text_width(string.upper() if upper else string, name, height) <= limit:
                return string

        return "open"

    return words.draw_value("sign", split, draw)


def make_signs(
    rng: Generator, split: str, size: tuple[int, int], heights: list[int], style: Style = STYLE
) -> tuple[Image.Image, list[Sign]]:
    """Draw a sign for each font height on a photograph, all of different colours.

    Args:
        rng: random numbers.
        split: split of photograph and texts.
        size: width and height in pixels.
        heights: font sizes in pixels.
        style: what the image is drawn with.

    Returns:
        The image, and its signs from top to bottom. Signs that find no free space are left out.
    """
    image = photo_background(rng, split, size, style)
    draw = ImageDraw.Draw(image)
    signs: list[Sign] = []

    room = size[0] // 2 if style.by_quadrant else size[0]
    colours = words.pick(rng, _LASTING_COLOURS if style.by_quadrant else tuple(COLOURS), len(heights))
    for height, colour in zip(heights, colours, strict=True):
        name = style.fonts[rng.integers(len(style.fonts))]
        upper = bool(rng.random() < 0.35)
        pad = max(3, height // 4)
        string = sign_text(rng, split, room - 2 * pad - 6, name, height, upper)

        # The plate: the text with a margin.
        plate_width = text_width(string.upper() if upper else string, name, height) + 2 * pad
        plate_height = height * 1.2 + 2 * pad * 0.6
        box = _free_box(rng, size, plate_width, plate_height, [sign.box for sign in signs], style.by_quadrant)
        if box is None and not signs:  # an image has at least one sign
            box = (2.0, 2.0, 2 + plate_width, 2 + plate_height)
        if box is None:
            continue

        # Dark ink on light plates, light ink on dark ones.
        rgb = COLOURS[colour]
        ink = (15, 15, 15) if sum(rgb) > 380 else (250, 250, 250)
        draw.rounded_rectangle(box, radius=3, fill=rgb, outline=ink)
        text = draw_text(draw, (box[0] + pad, box[1] + pad * 0.6), string, name, height, ink, upper)

        signs.append(Sign(colour, box, text, quadrant_of(box, size)))

    return image, sorted(signs, key=lambda sign: sign.box[1])
