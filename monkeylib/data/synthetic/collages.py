"""Scenes composed of real photographs and of signs, with everything that is true of them.

A scene is a board of four places with two or three photographs of the scikit-image wheel and one or two
signs. What each photograph shows is stated with every word that would be right for it, so that a word said
of the scene is either true or not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from monkeylib import assets
from monkeylib.boxes import Box
from monkeylib.data.synthetic.canvas import draw_text, text_width
from monkeylib.english import counted, listed

ASSET = "scikit-image-images"
SIZE = (576, 432)  # width and height of a scene in pixels
_FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSerif-Bold.ttf")
_BOARDS = {  # and what is right to say of them
    "brick.png": ("brick", "wall", "stone wall", "board"),
    "grass.png": ("grass", "lawn", "board"),
    "gravel.png": ("gravel", "stone", "board"),
}
_SIGN = ("sign", "street sign", "text")
_PLACES = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True)
class Thing:
    """What a photograph shows: its name, other right names of it, and what else can be seen there."""

    file: str
    name: str
    names: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


THINGS = (
    Thing(
        "astronaut.png",
        "astronaut",
        ("person", "woman", "spacesuit"),
        ("flag", "space shuttle", "rocket", "flagpole"),
    ),
    Thing(
        "camera.png", "photographer", ("person", "man", "cameraman"), ("camera", "tripod", "coat", "building")
    ),
    Thing("chelsea.png", "cat", ("tabby", "tiger cat", "egyptian cat", "lynx"), ()),
    Thing(
        "coffee.png",
        "cup of coffee",
        ("cup", "coffee", "espresso", "coffee mug", "teacup"),
        ("saucer", "spoon", "dining table", "table", "wooden spoon"),
    ),
    Thing("coins.png", "coins", ("coin", "money"), ()),
    Thing(
        "motorcycle_left.png",
        "motorcycle",
        ("moped", "motor scooter", "motorbike", "scooter"),
        ("disk brake", "wheel", "car wheel", "garage", "tool", "bicycle"),
    ),
    Thing("rocket.jpg", "rocket", ("missile", "projectile", "launch"), ("tower", "launch pad")),
    Thing("moon.png", "moon", (), ("crater",)),
    Thing("hubble_deep_field.jpg", "galaxy", ("galaxies", "star", "stars", "space"), ()),
)

SIGNS = (
    "NO PARKING",
    "Platform 9",
    "Open daily 8 to 18",
    "Fresh bread",
    "Keep left",
    "Bus stop 24",
    "Please ring twice",
    "Room 301",
    "Mind the step",
    "Exit to Main Street",
    "Price 4.50",
    "Do not touch",
)


@dataclass(frozen=True)
class Placed:
    """A thing at its place, its box in pixels of the scene."""

    thing: Thing
    place: str
    box: Box


@dataclass(frozen=True)
class Collage:
    """A scene, what is in and around it, the few words that it would come with, and two full descriptions."""

    name: str
    image: Image.Image
    things: tuple[Placed, ...]
    texts: tuple[str, ...]
    around: tuple[str, ...]
    original_caption: str
    references: tuple[str, ...]

    @property
    def true_words(self) -> frozenset[str]:
        """Every name, in lower case, that is right for something in the scene."""
        found = set(self.around)
        for placed in self.things:
            found |= {placed.thing.name, *placed.thing.names, *placed.thing.also}
        return frozenset(word.lower() for word in found)


def make(seed: int) -> Collage:
    """The scene of that number, the same on every machine.

    Raises:
        AssetUnavailable: the photographs aren't here and can't be fetched.
    """
    rng = np.random.default_rng([5, seed])
    folder = assets.fetch(ASSET)
    behind = list(_BOARDS)[rng.integers(len(_BOARDS))]
    board = _opened(folder, behind).resize(SIZE, Image.Resampling.BILINEAR)
    cells = rng.permutation(4).tolist()
    count, signs = int(rng.integers(2, 4)), int(rng.integers(1, 3))
    signs = min(signs, 4 - count)
    chosen = [THINGS[i] for i in rng.choice(len(THINGS), count, replace=False)]
    things = tuple(_pin(rng, board, folder, thing, cells.pop()) for thing in chosen)
    texts = []
    for index in rng.choice(len(SIGNS), signs, replace=False):
        _write(rng, board, SIGNS[index], cells.pop())
        texts.append(SIGNS[index])
    known = things[int(rng.integers(count))].thing
    return Collage(
        name=f"scene-{seed:03d}",
        image=board,
        things=things,
        texts=tuple(texts),
        around=(*_BOARDS[behind], *_SIGN),
        original_caption=f"{counted(known.name, 1) if known.name != 'coins' else 'coins'} on a board",
        references=_references(things, texts),
    )


def _opened(folder: Path, name: str) -> Image.Image:
    return Image.open(folder / name).convert("RGB")


def _cell(index: int) -> tuple[int, int, int, int]:
    width, height = SIZE[0] // 2, SIZE[1] // 2
    return (index % 2) * width, (index // 2) * height, width, height


def _pin(rng: Generator, board: Image.Image, folder: Path, thing: Thing, cell: int) -> Placed:
    """Lay a photograph into a cell, in its own proportions, mirrored half of the time."""
    x, y, width, height = _cell(cell)
    photograph = _opened(folder, thing.file)
    share = rng.uniform(0.8, 0.96)
    photograph.thumbnail((int(width * share), int(height * share)))
    if rng.random() < 0.5:
        photograph = photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    left = x + int(rng.integers(width - photograph.width + 1))
    top = y + int(rng.integers(height - photograph.height + 1))
    board.paste(photograph, (left, top))
    box = (float(left), float(top), float(left + photograph.width), float(top + photograph.height))
    return Placed(thing, _PLACES[cell], box)


def _write(rng: Generator, board: Image.Image, text: str, cell: int) -> None:
    """A light plate with a dark text in the middle of a cell."""
    x, y, width, height = _cell(cell)
    face = _FONTS[rng.integers(len(_FONTS))]
    size = int(rng.integers(16, 30))
    while text_width(text, face, size) > width - 40:
        size -= 1
    wide = text_width(text, face, size)
    left, top = x + (width - wide) / 2, y + (height - size) / 2
    draw = ImageDraw.Draw(board)
    draw.rounded_rectangle(
        (left - 14, top - 10, left + wide + 14, top + size + 14),
        6,
        fill=(245, 240, 225),
        outline=(60, 60, 60),
    )
    draw_text(draw, (left, top), text, face, size, (25, 30, 60))


def _references(things: Sequence[Placed], texts: Sequence[str]) -> tuple[str, ...]:
    """Two ways to say all of it."""
    nouns = ["coins" if p.thing.name == "coins" else counted(p.thing.name, 1) for p in things]
    places = [f"{noun} at the {p.place}" for noun, p in zip(nouns, things, strict=True)]
    quoted = listed([f'"{text}"' for text in texts])
    return (
        f"A picture of {listed(nouns)}. The picture shows {listed(places)}. The text reads {quoted}.",
        f"A board with {listed(places)}, and a sign that reads {quoted}.",
    )
