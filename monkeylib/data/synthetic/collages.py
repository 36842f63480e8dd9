"""Composite scenes of real photographs and signs, with their complete ground truth.

A scene is a board with four cells that hold two or three photographs of the scikit-image wheel and one or two
signs. Each photograph comes with every word that is correct for what it shows, so that any word of a caption
can be judged.
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
from monkeylib.english import join_with_and, with_count
from monkeylib.images import open_image

ASSET = "scikit-image-images"
SIZE = (576, 432)  # width and height of a scene in pixels

_FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSerif-Bold.ttf")
_BOARDS = {  # photograph of the board -> words that are correct for it
    "brick.png": ("brick", "wall", "stone wall", "board"),
    "grass.png": ("grass", "lawn", "board"),
    "gravel.png": ("gravel", "stone", "board"),
}
_SIGN_WORDS = ("sign", "street sign", "text")
_LOCATIONS = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True)
class Photograph:
    """A photograph and the words for it.

    Attributes:
        file: its name in the scikit-image wheel.
        name: name of the object that it shows.
        names: other correct names of the object.
        also: what else is visible.
    """

    file: str
    name: str
    names: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


PHOTOGRAPHS = (
    Photograph(
        "astronaut.png",
        "astronaut",
        ("person", "woman", "spacesuit"),
        ("flag", "space shuttle", "rocket", "flagpole"),
    ),
    Photograph(
        "camera.png", "photographer", ("person", "man", "cameraman"), ("camera", "tripod", "coat", "building")
    ),
    Photograph("chelsea.png", "cat", ("tabby", "tiger cat", "egyptian cat", "lynx"), ()),
    Photograph(
        "coffee.png",
        "cup of coffee",
        ("cup", "coffee", "espresso", "coffee mug", "teacup"),
        ("saucer", "spoon", "dining table", "table", "wooden spoon"),
    ),
    Photograph("coins.png", "coins", ("coin", "money"), ()),
    Photograph(
        "motorcycle_left.png",
        "motorcycle",
        ("moped", "motor scooter", "motorbike", "scooter"),
        ("disk brake", "wheel", "car wheel", "garage", "tool", "bicycle"),
    ),
    Photograph("rocket.jpg", "rocket", ("missile", "projectile", "launch"), ("tower", "launch pad")),
    Photograph("moon.png", "moon", (), ("crater",)),
    Photograph("hubble_deep_field.jpg", "galaxy", ("galaxies", "star", "stars", "space"), ()),
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
class PlacedPhotograph:
    """A photograph in a scene, with its cell and its box in pixels of the scene."""

    photograph: Photograph
    location: str
    box: Box


@dataclass(frozen=True)
class CompositeScene:
    """A scene with its ground truth.

    Attributes:
        name: "scene-007".
        image: RGB.
        photographs: the photographs on the board.
        texts: texts of the signs.
        context: words that are correct for the board and the signs themselves.
        original_caption: the few words that a caption dataset would have for the scene.
        references: two complete descriptions.
    """

    name: str
    image: Image.Image
    photographs: tuple[PlacedPhotograph, ...]
    texts: tuple[str, ...]
    context: tuple[str, ...]
    original_caption: str
    references: tuple[str, ...]

    @property
    def true_words(self) -> frozenset[str]:
        """Every name, in lower case, that is correct for something in the scene."""
        words = set(self.context)
        for placed in self.photographs:
            photograph = placed.photograph
            words |= {photograph.name, *photograph.names, *photograph.also}
        return frozenset(word.lower() for word in words)


def make_composite_scene(seed: int) -> CompositeScene:
    """Make scene number `seed`, the same on every machine.

    Raises:
        AssetUnavailable: the photographs are not here and cannot be downloaded.
    """
    # The 5 keeps these random numbers different from those of other generators with the same seed.
    rng = np.random.default_rng([5, seed])
    folder = assets.fetch(ASSET)

    board_file = list(_BOARDS)[rng.integers(len(_BOARDS))]
    board = _open(folder, board_file).resize(SIZE, Image.Resampling.BILINEAR)

    # Four cells for two or three photographs and one or two signs.
    cells = rng.permutation(4).tolist()
    photograph_count = int(rng.integers(2, 4))
    sign_count = min(int(rng.integers(1, 3)), 4 - photograph_count)

    selected = [PHOTOGRAPHS[i] for i in rng.choice(len(PHOTOGRAPHS), photograph_count, replace=False)]
    photographs = tuple(
        _paste_photograph(rng, board, folder, photograph, cells.pop()) for photograph in selected
    )

    texts = []
    for index in rng.choice(len(SIGNS), sign_count, replace=False):
        _draw_sign(rng, board, SIGNS[index], cells.pop())
        texts.append(SIGNS[index])

    # Captions of datasets mention little: the original one names a single photograph.
    captioned = photographs[int(rng.integers(photograph_count))].photograph
    return CompositeScene(
        name=f"scene-{seed:03d}",
        image=board,
        photographs=photographs,
        texts=tuple(texts),
        context=(*_BOARDS[board_file], *_SIGN_WORDS),
        original_caption=f"{_noun(captioned)} on a board",
        references=_describe(photographs, texts),
    )


def _open(folder: Path, name: str) -> Image.Image:
    return open_image(folder / name)


def _cell(index: int) -> tuple[int, int, int, int]:
    """Return left, top, width and height of a cell in pixels."""
    width, height = SIZE[0] // 2, SIZE[1] // 2
    return (index % 2) * width, (index // 2) * height, width, height


def _paste_photograph(
    rng: Generator, board: Image.Image, folder: Path, photograph: Photograph, cell: int
) -> PlacedPhotograph:
    """Paste a photograph into a cell in its own proportions, mirrored half of the time."""
    x, y, width, height = _cell(cell)
    image = _open(folder, photograph.file)

    # Leave some of the board visible around it.
    share = rng.uniform(0.8, 0.96)
    image.thumbnail((int(width * share), int(height * share)))

    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    left = x + int(rng.integers(width - image.width + 1))
    top = y + int(rng.integers(height - image.height + 1))
    board.paste(image, (left, top))

    box = (float(left), float(top), float(left + image.width), float(top + image.height))
    return PlacedPhotograph(photograph, _LOCATIONS[cell], box)


def _draw_sign(rng: Generator, board: Image.Image, text: str, cell: int) -> None:
    """Draw a light plate with a dark text in the middle of a cell."""
    x, y, width, height = _cell(cell)
    face = _FONTS[rng.integers(len(_FONTS))]
    size = int(rng.integers(16, 30))

    # The plate needs 14 pixels on both sides, and some of the board around it.
    while text_width(text, face, size) > width - 40:
        size -= 1

    length = text_width(text, face, size)
    left, top = x + (width - length) / 2, y + (height - size) / 2

    draw = ImageDraw.Draw(board)
    draw.rounded_rectangle(
        (left - 14, top - 10, left + length + 14, top + size + 14),
        radius=6,
        fill=(245, 240, 225),
        outline=(60, 60, 60),
    )

    draw_text(draw, (left, top), text, face, size, (25, 30, 60))


def _noun(photograph: Photograph) -> str:
    """Return the name of the object with its article, if it takes one."""
    return "coins" if photograph.name == "coins" else with_count(photograph.name, 1)


def _describe(photographs: Sequence[PlacedPhotograph], texts: Sequence[str]) -> tuple[str, ...]:
    """Return two descriptions of everything in a scene."""
    nouns = [_noun(placed.photograph) for placed in photographs]
    located = [f"{noun} at the {placed.location}" for noun, placed in zip(nouns, photographs, strict=True)]

    quoted = join_with_and([f'"{text}"' for text in texts])
    return (
        f"A picture of {join_with_and(nouns)}. The picture shows {join_with_and(located)}. "
        f"The text reads {quoted}.",
        f"A board with {join_with_and(located)}, and a sign that reads {quoted}.",
    )
