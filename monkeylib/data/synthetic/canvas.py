"""Drawing for synthetic images: photographs, paper, fonts, and text with a box for every glyph."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFont

from monkeylib.boxes import Box
from monkeylib.images import open_image

FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono-Bold.ttf")

# Photographs in the scikit-image wheel. A photograph belongs to one split only, so a background seen in
# training never appears in validation or test images.
PHOTOS = {
    "train": (
        "astronaut.png",
        "chelsea.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "motorcycle_left.png",
        "retina.jpg",
        "brick.png",
        "camera.png",
        "grass.png",
        "color.png",
        "moon.png",
        "cell.png",
    ),
    "val": ("clock_motion.png", "coins.png"),
    "test": ("coffee.png", "rocket.jpg", "gravel.png"),
}

# Another photograph, in the matplotlib wheel.
_MATPLOTLIB_PHOTO = "grace_hopper.jpg"

# Faces whose capitals are lower than those of DejaVu at the same font size, and the factor that evens it out.
_SCALES = {"STIXGeneralBol.ttf": 1.07, "cmss10.ttf": 1.06, "cmtt10.ttf": 1.20}

_PHOTO_SIDE = 300  # pixels of a photograph's short side
_CAP_HEIGHT = 0.76  # of DejaVu, as a share of the font size
_BELOW_BASELINE = 0.08  # share of the font size that the boxes of lower-case glyphs reach below the baseline


@dataclass(frozen=True)
class Style:
    """What images are drawn with.

    Attributes:
        fonts: files of fonts that matplotlib ships.
        photos: files of photographs by split.
        by_quadrant: draw what stays true where quadrants are transformed (`renderings`): objects and signs
            that lie within one quadrant and are neither white nor black, and no question about a text that
            a border between quadrants cuts.
    """

    fonts: tuple[str, ...] = FONTS
    photos: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: PHOTOS)
    by_quadrant: bool = False


STYLE = Style()


@dataclass(frozen=True)
class Glyph:
    """A drawn character and its box in pixels."""

    char: str  # lower case
    box: Box


@dataclass(frozen=True)
class Text:
    """A drawn line of text; `height` is its font size in pixels of the full image."""

    string: str
    box: Box
    height: int
    glyphs: tuple[Glyph, ...]


def _package_folder(package: str, purpose: str) -> Path:
    """Return the folder of an installed package, of which only data files are used.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    # find_spec locates the package without importing it.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"synthetic data needs the {purpose} of {package}: install monkeylib with its extra `synthetic`"
        )

    return Path(spec.origin).parent


def photo_file(name: str) -> Path:
    """Return the file of a photograph in the scikit-image wheel, or of the one in matplotlib's."""
    if name == _MATPLOTLIB_PHOTO:
        return _package_folder("matplotlib", "photographs") / "mpl-data" / "sample_data" / name
    return _package_folder("skimage", "photographs") / "data" / name


@lru_cache(maxsize=256)
def font(name: str, height: int) -> ImageFont.FreeTypeFont:
    """Load one of the fonts that matplotlib ships, with capitals as high as those of DejaVu.

    The basic layout engine of Pillow puts the same glyphs in the same positions on every machine, whether or
    not the system has the library (Raqm) that Pillow prefers.
    """
    file = _package_folder("matplotlib", "fonts") / "mpl-data" / "fonts" / "ttf" / name
    size = round(height * _SCALES.get(name, 1))
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=32)
def photo(name: str) -> Image.Image:
    """Load a photograph as RGB, its short side resized to 300 pixels."""
    image = open_image(photo_file(name))

    scale = _PHOTO_SIDE / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


def photo_background(rng: Generator, split: str, size: tuple[int, int], style: Style = STYLE) -> Image.Image:
    """Draw a random crop of one of the split's photographs.

    The crop is zoomed and mirrored, its colour channels are permuted, and it is dimmed or lightened a little.
    """
    names = style.photos[split]
    source = photo(names[rng.integers(len(names))])

    # A crop of the image's proportions, half as large as the photograph allows or larger.
    zoom = rng.uniform(0.5, 1.0) * min(source.width / size[0], source.height / size[1])
    width, height = size[0] * zoom, size[1] * zoom
    x = rng.uniform(0, source.width - width)
    y = rng.uniform(0, source.height - height)
    crop = source.resize(size, Image.Resampling.BILINEAR, box=(x, y, x + width, y + height))

    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_TOP_BOTTOM)

    # One gain per channel and one offset for all: v -> gain * v + lift.
    bands = [crop.getchannel(int(channel)) for channel in rng.permutation(3)]
    gains = rng.uniform(0.55, 0.9) * rng.uniform(0.7, 1.1, 3)
    lift = rng.uniform(0, 60)
    curves = [[min(255, int(value * gain + lift)) for value in range(256)] for gain in gains.tolist()]
    return Image.merge("RGB", [band.point(curve) for band, curve in zip(bands, curves, strict=True)])


def paper_background(rng: Generator, size: tuple[int, int], dark: bool) -> Image.Image:
    """Draw paper: a tint, with soft shading from corner to corner and fine grain."""
    tint = rng.uniform(10, 70, 3) if dark else rng.uniform(205, 255, 3)

    slopes = rng.uniform(-14, 14, 2)
    across = np.linspace(0, slopes[0], size[0], dtype=np.float32)  # [W]
    down = np.linspace(0, slopes[1], size[1], dtype=np.float32)  # [H]
    grain = rng.standard_normal((size[1], size[0]), dtype=np.float32) * 2.5
    shade = grain + across + down[:, None]  # [H, W]

    bands = [np.clip(shade + np.float32(level), 0, 255).astype(np.uint8) for level in tint]
    return Image.merge("RGB", [Image.fromarray(band) for band in bands])


@lru_cache(maxsize=16384)
def _advance(char: str, name: str, height: int) -> float:
    return font(name, height).getlength(char)


def text_width(string: str, name: str, height: int) -> float:
    """Return the width of a line in pixels: the sum of its glyphs' advances."""
    return sum(_advance(char, name, height) for char in string)


def draw_text(
    draw: ImageDraw.ImageDraw,
    xy: tuple[float, float],
    string: str,
    name: str,
    height: int,
    fill: tuple[int, int, int],
    upper: bool = False,
) -> Text:
    """Draw one line and return it with a box for each glyph.

    The box of a glyph spans its advance horizontally and the font's cap height vertically.

    Args:
        draw: what to draw on.
        xy: top left corner in pixels.
        string: the line.
        name: file of the font.
        height: font size in pixels.
        fill: colour.
        upper: draw capitals. The recorded text stays lower case, as are all answers.
    """
    face = font(name, height)
    visible = string.upper() if upper else string

    # Other faces stand on the baseline of DejaVu.
    x, y = xy
    baseline = y + font(FONTS[0] if name in _SCALES else name, height).getmetrics()[0]
    draw.text((x, baseline - face.getmetrics()[0]), visible, font=face, fill=fill)

    # Lower-case glyphs get some room below the baseline; capitals have no descenders.
    top = baseline - _CAP_HEIGHT * height
    bottom = baseline + (0.0 if upper else _BELOW_BASELINE * height)

    # Left edge of each glyph, and the right edge of the last one.
    edges = list(accumulate((_advance(char, name, height) for char in visible), initial=x))
    glyphs = tuple(
        Glyph(char, (edges[i], top, edges[i + 1], bottom)) for i, char in enumerate(string) if char != " "
    )
    return Text(string, (x, top, edges[-1], bottom), height, glyphs)
