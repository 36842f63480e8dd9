"""Drawing with a memory: photographs, fonts and text whose every glyph has a known box."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFont

from monkeylib.boxes import Box

FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono-Bold.ttf")

# Photographs of the scikit-image wheel, split once: a background seen in training never appears elsewhere.
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


@dataclass(frozen=True)
class Glyph:
    """A written character and the box that it covers."""

    char: str  # lower case
    box: Box


@dataclass(frozen=True)
class Text:
    """A written string: `height` is the font size in pixels of the full image."""

    string: str
    box: Box
    height: int
    glyphs: tuple[Glyph, ...]


@lru_cache(maxsize=256)
def font(name: str, height: int) -> ImageFont.FreeTypeFont:
    """A font of matplotlib's own set (DejaVu), laid out by Pillow itself: the same glyphs in the same places
    on every machine, whether or not the system has the library that Pillow would rather use.
    """
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(file), height, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=32)
def photo(name: str) -> Image.Image:
    """A photograph of the scikit-image wheel as RGB, its short side 300 px."""
    import skimage

    image = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
    scale = 300 / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def photo_background(rng: Generator, split: str, size: tuple[int, int]) -> Image.Image:
    """A random crop of a photograph of this split, zoomed, mirrored, its colours exchanged, dimmed or
    lightened a little."""
    source = photo(PHOTOS[split][rng.integers(len(PHOTOS[split]))])
    zoom = rng.uniform(0.5, 1.0) * min(source.width / size[0], source.height / size[1])
    w, h = size[0] * zoom, size[1] * zoom
    x, y = rng.uniform(0, source.width - w), rng.uniform(0, source.height - h)
    crop = source.resize(size, Image.Resampling.BILINEAR, box=(x, y, x + w, y + h))
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    bands = [crop.getchannel(int(c)) for c in rng.permutation(3)]
    gains, lift = rng.uniform(0.55, 0.9) * rng.uniform(0.7, 1.1, 3), rng.uniform(0, 60)
    curves = [[min(255, int(v * gain + lift)) for v in range(256)] for gain in gains.tolist()]
    return Image.merge("RGB", [band.point(curve) for band, curve in zip(bands, curves, strict=True)])


def paper_background(rng: Generator, size: tuple[int, int], dark: bool) -> Image.Image:
    """Paper: a tint with a soft shading from corner to corner and fine grain."""
    tint = rng.uniform(10, 70, 3) if dark else rng.uniform(205, 255, 3)
    across, down = (
        np.linspace(0, slope, length, dtype=np.float32)
        for slope, length in zip(rng.uniform(-14, 14, 2), size, strict=True)
    )
    shade = rng.standard_normal((size[1], size[0]), dtype=np.float32) * 2.5 + across + down[:, None]
    bands = [np.clip(shade + np.float32(t), 0, 255).astype(np.uint8) for t in tint]
    return Image.merge("RGB", [Image.fromarray(band) for band in bands])


@lru_cache(maxsize=16384)
def _advance(char: str, name: str, height: int) -> float:
    return font(name, height).getlength(char)


def text_width(string: str, name: str, height: int) -> float:
    """Width in pixels: the sum of the glyphs' advances."""
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
    """Draw one line with its top left at `xy` and return it with a box for each glyph.

    `upper` draws capitals; the recorded text stays lower case, which is how the nano world writes answers.
    A glyph's box spans its advance horizontally and the font's cap height vertically.
    """
    face = font(name, height)
    shown = string.upper() if upper else string
    draw.text(xy, shown, font=face, fill=fill)
    x, y = xy
    ascent, _ = face.getmetrics()
    top, bottom = y + ascent - 0.76 * height, y + ascent + (0.0 if upper else 0.08 * height)
    edges = list(accumulate((_advance(char, name, height) for char in shown), initial=x))
    glyphs = tuple(Glyph(c, (edges[i], top, edges[i + 1], bottom)) for i, c in enumerate(string) if c != " ")
    return Text(string, (x, top, edges[-1], bottom), height, glyphs)
