"""Photographs with drawn objects (captions, general questions) and with signs (scene text)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.random import Generator
from PIL import Image, ImageDraw

from monkeylib.boxes import Box, center
from monkeylib.data.synthetic import words
from monkeylib.data.synthetic.canvas import FONTS, Text, draw_text, photo_background, text_width

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


@dataclass(frozen=True)
class Thing:
    """A drawn object."""

    name: str
    colour: str
    box: Box
    place: str


def place_of(box: Box, size: tuple[int, int]) -> str:
    """Quadrant of the box's centre."""
    x, y = center(box)
    return f"{'top' if y < size[1] / 2 else 'bottom'} {'left' if x < size[0] / 2 else 'right'}"


def _star(points: int, inner: float, turn: float = -math.pi / 2) -> list[tuple[float, float]]:
    radius = [1.0 if i % 2 == 0 else inner for i in range(2 * points)]
    return [
        (
            0.5 + r / 2 * math.cos(turn + math.pi * i / points),
            0.5 + r / 2 * math.sin(turn + math.pi * i / points),
        )
        for i, r in enumerate(radius)
    ]


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
    """Draw one object filling `box`, with a thin outline that keeps it apart from any photograph (4x
    supersampled)."""
    x0, y0, x1, y1 = (round(v) for v in box)
    w, h = x1 - x0, y1 - y0
    mask = Image.new("L", (4 * w, 4 * h), 0)
    pen = ImageDraw.Draw(mask)
    if name in _POLYGONS:
        for polygon in _POLYGONS[name]:
            pen.polygon([(4 * w * px, 4 * h * py) for px, py in polygon], fill=255)
    else:  # ball, ring, moon
        pen.ellipse((0, 0, 4 * w - 1, 4 * h - 1), fill=255)
        if name == "ring":
            pen.ellipse((w, h, 3 * w, 3 * h), fill=0)
        if name == "moon":
            pen.ellipse((1.4 * w, -0.4 * h, 5.2 * w, 3.4 * h), fill=0)
    mask = mask.resize((w, h), Image.Resampling.BOX)
    outline = (20, 20, 20) if colour != "black" else (235, 235, 235)
    for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        image.paste(outline, (x0 + dx, y0 + dy), mask)
    image.paste(COLOURS[colour], (x0, y0), mask)


def _free_box(rng: Generator, size: tuple[int, int], w: float, h: float, taken: list[Box]) -> Box | None:
    """A place for a w x h box that touches no taken one and whose centre is clearly in one quadrant."""
    for _ in range(30):
        x, y = rng.uniform(2, max(3, size[0] - w - 2)), rng.uniform(2, max(3, size[1] - h - 2))
        box = (x, y, x + w, y + h)
        clear = abs((x + w / 2) / size[0] - 0.5) > 0.06 and abs((y + h / 2) / size[1] - 0.5) > 0.06
        apart = all(x > b[2] + 2 or b[0] > x + w + 2 or y > b[3] + 2 or b[1] > y + h + 2 for b in taken)
        if clear and apart:
            return box
    return None


def make_scene(rng: Generator, split: str, size: tuple[int, int]) -> tuple[Image.Image, list[Thing]]:
    """One to five objects on a photograph."""
    image = photo_background(rng, split, size)
    things: list[Thing] = []
    kinds = words.pick(rng, OBJECTS, int(rng.integers(1, 4)))
    for name in [k for k in kinds for _ in range(int(rng.integers(1, 4)) if rng.random() < 0.4 else 1)][:5]:
        side = rng.uniform(0.17, 0.32) * min(size)
        box = _free_box(rng, size, side, side * rng.uniform(0.85, 1.15), [t.box for t in things])
        if box is None:
            continue
        colour = words.pick(rng, list(COLOURS))[0]
        draw_object(image, name, colour, box)
        things.append(Thing(name, colour, box, place_of(box, size)))
    return image, sorted(things, key=lambda t: (t.box[1] > size[1] / 2, t.box[0]))


@dataclass(frozen=True)
class Sign:
    """A plate with one line of writing."""

    colour: str
    box: Box
    text: Text
    place: str


def sign_text(rng: Generator, split: str, limit: float, name: str, height: int, upper: bool) -> str:
    """One to three words whose pair ("sign", words) belongs to the split and which fit into `limit`
    pixels."""

    def draw() -> str:
        for count in (int(rng.integers(1, 4)), 2, 1, 1, 1):
            string = " ".join(words.pick(rng, words.SIGN_WORDS, count))
            if rng.random() < 0.25:
                string = f"{words.pick(rng, words.SIGN_WORDS)[0]} {rng.integers(1, 100)}"
            if text_width(string.upper() if upper else string, name, height) <= limit:
                return string
        return "open"

    return words.draw_value("sign", split, draw)


def make_signs(
    rng: Generator, split: str, size: tuple[int, int], heights: list[int]
) -> tuple[Image.Image, list[Sign]]:
    """One sign for each font height, on a photograph; all plates differ in colour."""
    image = photo_background(rng, split, size)
    draw = ImageDraw.Draw(image)
    signs: list[Sign] = []
    for height, colour in zip(heights, words.pick(rng, list(COLOURS), len(heights)), strict=True):
        name, upper = FONTS[rng.integers(len(FONTS))], bool(rng.random() < 0.35)
        pad = max(3, height // 4)
        string = sign_text(rng, split, size[0] - 2 * pad - 6, name, height, upper)
        w, h = (
            text_width(string.upper() if upper else string, name, height) + 2 * pad,
            height * 1.2 + 2 * pad * 0.6,
        )
        box = _free_box(rng, size, w, h, [s.box for s in signs]) or (
            None if signs else (2.0, 2.0, 2 + w, 2 + h)
        )
        if box is None:
            continue
        rgb = COLOURS[colour]
        ink = (15, 15, 15) if sum(rgb) > 380 else (250, 250, 250)
        draw.rounded_rectangle(box, radius=3, fill=rgb, outline=ink)
        text = draw_text(draw, (box[0] + pad, box[1] + pad * 0.6), string, name, height, ink, upper)
        signs.append(Sign(colour, box, text, place_of(box, size)))
    return image, sorted(signs, key=lambda s: s.box[1])
