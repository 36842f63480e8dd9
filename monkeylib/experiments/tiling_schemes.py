"""How schemes of high resolution cut an image: Monkey's beside AnyRes, S2 and dynamic tiling.

A scheme maps an image to a canvas, which it cuts into square tiles. Compared are the visual tokens that a
language model reads, the words that borders of tiles cut, how much the image is stretched, and how many
pixels of it the tiles preserve. Only sizes count: no model runs. The settings are those that the schemes were
published with; the canvas is chosen by transformers where it implements the scheme.

| scheme | tile | canvas | visual tokens |
| --- | --- | --- | --- |
| one view | 448 | one tile, stretched | 256 |
| Monkey | 448 | 2x2 tiles, stretched | 256 a tile, and of the global view |
| Monkey, automatic grid | 448 | up to 6 tiles, the least distorted grid, stretched | the same |
| AnyRes (LLaVA-NeXT) | 336 | one of five, padded | 576 a tile without padding, one a row, 576 of the image |
| S2 (LLaVA-1.5) | 336 | 3x3 tiles, padded; 2x2 and one view too | 576, each of all three scales |
| dynamic tiling (InternVL 1.5) | 448 | up to 12 tiles, stretched | 256 a tile, and of the image |
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from monkeylib import tiling
from monkeylib.boxes import Box, enclosing_box
from monkeylib.data.synthetic import Sample, make_sample
from monkeylib.data.synthetic.canvas import photo_file
from monkeylib.errors import choose
from monkeylib.images import open_image
from monkeylib.tables import Row
from monkeylib.tiling import Grid

TABLE = "tiling_schemes"

# Width and height of the test documents, which are taken as scans of so many times as many pixels.
SHAPES = {"portrait": (160, 224), "square": (192, 192), "landscape": (288, 128)}
SCAN = 6

_ANYRES_TILE, _ANYRES_PATCHES = 336, 24  # a side, in pixels and in patches
# Height and width of the canvases of LLaVA-NeXT.
_ANYRES_CANVASES = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_S2_TOKENS = 576
_INTERNVL_MAX_TILES = 12
_MAX_AUTOMATIC_TILES = 6
_TILE, _TOKENS = 448, 256  # a view of Monkey and of InternVL


@dataclass(frozen=True)
class Layout:
    """An image on the canvas that a scheme cuts into tiles.

    Attributes:
        size: width and height of the image, in pixels.
        grid: rows and columns of tiles.
        tile: side of a tile in pixels.
        content: where the image lies on the canvas, in pixels of the canvas; around it is padding.
        visual_tokens: what the language model reads of the image, its global view included.
    """

    size: tuple[int, int]
    grid: Grid
    tile: int
    content: Box
    visual_tokens: int

    @property
    def canvas(self) -> tuple[int, int]:
        """Width and height of the canvas in pixels."""
        return self.grid.cols * self.tile, self.grid.rows * self.tile

    @property
    def scales(self) -> tuple[float, float]:
        """Pixels of the canvas for each pixel of the image, across and down."""
        x0, y0, x1, y1 = self.content
        return (x1 - x0) / self.size[0], (y1 - y0) / self.size[1]

    @property
    def stretch(self) -> float:
        """How many times more the image is stretched along one side than along the other, 1 or more."""
        return max(self.scales) / min(self.scales)

    @property
    def resolution(self) -> float:
        """Pixels of the canvas for each pixel of the image, along the side that has fewer."""
        return min(self.scales)

    def place(self, box: Box) -> Box:
        """Return where a box of the image lies on the canvas."""
        (across, down), (left, top) = self.scales, self.content[:2]
        x0, y0, x1, y1 = box
        return left + x0 * across, top + y0 * down, left + x1 * across, top + y1 * down

    def cuts(self, box: Box) -> bool:
        """Return whether a border between tiles runs through a box of the image."""
        x0, y0, x1, y1 = self.place(box)
        columns = (col * self.tile for col in range(1, self.grid.cols))
        rows = (row * self.tile for row in range(1, self.grid.rows))
        return any(x0 < x < x1 for x in columns) or any(y0 < y < y1 for y in rows)


# --- schemes


def lay_out_one_view(size: tuple[int, int]) -> Layout:
    """Stretch an image over one view, as Qwen-VL does."""
    return _stretched(size, Grid(1, 1), _TILE, _TOKENS)


def lay_out_monkey(size: tuple[int, int]) -> Layout:
    """Stretch an image over 2x2 tiles, whatever its shape (paper, section 3.1)."""
    return _stretched(size, Grid(2, 2), _TILE, 5 * _TOKENS)


def lay_out_automatic(size: tuple[int, int]) -> Layout:
    """Stretch an image over the grid that distorts it least, as this library does where it is told to."""
    grid = tiling.select_grid(*size, tile=_TILE, max_tiles=_MAX_AUTOMATIC_TILES)
    return _stretched(size, grid, _TILE, (grid.tiles + 1) * _TOKENS)


def lay_out_anyres(size: tuple[int, int]) -> Layout:
    """Pad an image to the best of five canvases (LLaVA-NeXT).

    Tokens of padding are dropped, and one is added at the end of each row of patches.
    """
    from transformers.image_processing_utils import select_best_resolution

    height, width = select_best_resolution((size[1], size[0]), _ANYRES_CANVASES)
    grid = Grid(height // _ANYRES_TILE, width // _ANYRES_TILE)

    content = _fit(size, width, height)
    rows, cols = grid.rows * _ANYRES_PATCHES, grid.cols * _ANYRES_PATCHES
    rows, cols = _without_padding(size, rows, cols)
    tokens = rows * (cols + 1) + _ANYRES_PATCHES**2
    return Layout(size, grid, _ANYRES_TILE, content, tokens)


def lay_out_s2(size: tuple[int, int]) -> Layout:
    """Pad an image to a square of 1008 pixels (S2 in LLaVA-1.5).

    It also sees the square at 672 and 336 pixels. Features of the larger ones are averaged down to those of
    the smallest, and stand beside these in one token.
    """
    grid = Grid(3, 3)
    side = grid.cols * _ANYRES_TILE
    return Layout(size, grid, _ANYRES_TILE, _fit(size, side, side), _S2_TOKENS)


def lay_out_dynamic(size: tuple[int, int]) -> Layout:
    """Stretch an image over the grid of up to 12 tiles whose aspect ratio is nearest (InternVL 1.5)."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    height_and_width = (size[1], size[0])
    cols, rows = get_optimal_tiled_canvas(height_and_width, (_TILE, _TILE), 1, _INTERNVL_MAX_TILES)
    grid = Grid(rows, cols)
    # An image of one tile has no thumbnail beside it.
    views = grid.tiles + (grid.tiles > 1)
    return _stretched(size, grid, _TILE, views * _TOKENS)


SCHEMES: Mapping[str, Callable[[tuple[int, int]], Layout]] = {
    "one view": lay_out_one_view,
    "Monkey": lay_out_monkey,
    "Monkey, automatic grid": lay_out_automatic,
    "AnyRes": lay_out_anyres,
    "S2": lay_out_s2,
    "dynamic tiling": lay_out_dynamic,
}


def _stretched(size: tuple[int, int], grid: Grid, tile: int, visual_tokens: int) -> Layout:
    content = (0.0, 0.0, float(grid.cols * tile), float(grid.rows * tile))
    return Layout(size, grid, tile, content, visual_tokens)


def _fit(size: tuple[int, int], width: int, height: int) -> Box:
    """Return the middle of a canvas that an image fills if its aspect ratio stays as it is."""
    scale = min(width / size[0], height / size[1])
    left, top = (width - scale * size[0]) / 2, (height - scale * size[1]) / 2
    return left, top, width - left, height - top


def _without_padding(size: tuple[int, int], rows: int, cols: int) -> tuple[int, int]:
    """Return the rows and columns of patches that are left when padding is dropped at both ends."""
    width, height = size
    if width / height > cols / rows:
        image_rows = int(round(height * cols / width, 7))
        return rows - 2 * ((rows - image_rows) // 2), cols
    image_cols = int(round(width * rows / height, 7))
    return rows, cols - 2 * ((cols - image_cols) // 2)


# --- words


def words_of_sample(sample: Sample) -> list[Box]:
    """Return a box around each word of a synthetic image, from those of its glyphs."""
    words = []
    for text in sample.texts:
        # Blanks have no glyphs.
        glyphs = iter(text.glyphs)
        for word in text.string.split():
            words.append(enclosing_box(*(glyph.box for glyph in itertools.islice(glyphs, len(word)))))
    return words


def find_words(page: Image.Image) -> list[Box]:
    """Find the words of a photographed page by image processing.

    Ink is darker than its surroundings; letters that are at most 4 pixels apart join to a word. Left out is
    what touches the edge, is no taller or wider than a dot, or is mostly paper, such as a slanted rule.

    Args:
        page: dark text of 7 to 20 pixels on light paper.
    """
    from skimage import filters, measure, morphology, segmentation

    brightness = np.asarray(page.convert("L"), dtype=float)
    ink = brightness < filters.threshold_local(brightness, 31, offset=14)
    joined = morphology.closing(ink, np.ones((1, 5), dtype=bool))

    words = []
    for region in measure.regionprops(measure.label(segmentation.clear_border(joined))):
        y0, x0, y1, x1 = region.bbox
        has_size = 5 <= y1 - y0 <= 22 and x1 - x0 >= 3
        if has_size and ink[y0:y1, x0:x1].mean() > 0.2:
            words.append((float(x0), float(y0), float(x1), float(y1)))
    return words


def photographed_page() -> tuple[Image.Image, list[Box]]:
    """Return the photograph of a printed page in the scikit-image wheel, and its words."""
    page = open_image(photo_file("page.png"))
    return page, find_words(page)


# --- the comparison


def compare_schemes(
    images: Iterable[tuple[str, tuple[int, int], Sequence[Box]]],
    schemes: Mapping[str, Callable[[tuple[int, int]], Layout]] = SCHEMES,
) -> list[Row]:
    """Lay images out by every scheme.

    Args:
        images: name, width and height in pixels, and boxes of words, of each.
        schemes: by name.

    Returns:
        A row for each image and scheme: `image`, `scheme`, `grid`, `visual tokens`, `words`, `words cut`,
        `stretch` and `resolution`, see `Layout`.

    Raises:
        ValueError: an image without pixels.
    """
    rows: list[Row] = []
    for image, size, words in images:
        if min(size) < 1:
            raise ValueError(f"an image has at least one pixel on each side, {image} has {size[0]}x{size[1]}")
        for name, lay_out in schemes.items():
            layout = lay_out(size)
            rows.append(
                {
                    "image": image,
                    "scheme": name,
                    "grid": str(layout.grid),
                    "visual tokens": layout.visual_tokens,
                    "words": len(words),
                    "words cut": sum(map(layout.cuts, words)),
                    "stretch": round(layout.stretch, 3),
                    "resolution": round(layout.resolution, 3),
                }
            )
    return rows


def document_scan(number: int, shape: str) -> tuple[Image.Image, list[Box]]:
    """Return a document of the test split as a scan, and its words.

    Args:
        number: of the document.
        shape: one of `SHAPES`.

    Raises:
        ValueError: there is no such shape.
    """
    sample = _document(number, shape)
    size = (SCAN * sample.image.width, SCAN * sample.image.height)
    return sample.image.resize(size, Image.Resampling.BICUBIC), _words_of_scan(sample)


def document_pages(count: int = 20) -> list[tuple[str, tuple[int, int], list[Box]]]:
    """Return the shape, size and words of scans of the test split, for `compare_schemes`.

    Args:
        count: documents of each shape.
    """
    pages = []
    for shape, (width, height) in SHAPES.items():
        for number in range(count):
            words = _words_of_scan(_document(number, shape))
            pages.append((shape, (SCAN * width, SCAN * height), words))
    return pages


def _document(number: int, shape: str) -> Sample:
    return make_sample(number, "test", SHAPES[choose("shape of a document", shape, SHAPES)], "document")


def _words_of_scan(sample: Sample) -> list[Box]:
    words = words_of_sample(sample)
    return [(SCAN * x0, SCAN * y0, SCAN * x1, SCAN * y1) for x0, y0, x1, y1 in words]


def summarise(rows: Sequence[Row]) -> list[Row]:
    """Return a row for each scheme, over all images of a comparison.

    `visual tokens`, `stretch` and `resolution` are means over images, `most tokens` their largest number,
    `words cut` the share of all words.
    """
    summary: list[Row] = []
    for scheme in dict.fromkeys(row["scheme"] for row in rows):
        of_scheme = [row for row in rows if row["scheme"] == scheme]
        words = sum(row["words"] for row in of_scheme)
        means = {
            column: math.fsum(row[column] for row in of_scheme) / len(of_scheme)
            for column in ("visual tokens", "stretch", "resolution")
        }
        summary.append(
            {
                "scheme": scheme,
                "visual tokens": round(means["visual tokens"]),
                "most tokens": max(row["visual tokens"] for row in of_scheme),
                "words cut": round(sum(row["words cut"] for row in of_scheme) / words, 3) if words else None,
                "stretch": round(means["stretch"], 2),
                "resolution": round(means["resolution"], 2),
            }
        )
    return summary
