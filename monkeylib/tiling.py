"""Cut images into tiles, join them again, and make the global view.

Pure tensor functions. An image is a `Grid` of `rows x cols` tiles of one size; tiles are numbered row by
row, and tile `i` meets adapter `i`. Paper section 3.1; sizes and the global view follow the released code.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from PIL import Image
from torch.nn import functional as F


class Grid(NamedTuple):
    """How many tiles an image has: `rows` down, `cols` across."""

    rows: int
    cols: int

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return self.rows * self.cols

    def __str__(self) -> str:
        return f"{self.rows}x{self.cols}"


def parse_grid(text: str) -> Grid:
    """The grid that "2x3" names: rows, then columns.

    Raises:
        ValueError: the text is not of that form.

    >>> parse_grid("2x3")
    Grid(rows=2, cols=3)
    """
    rows, _, cols = text.partition("x")
    if not (rows.isdecimal() and cols.isdecimal() and int(rows) and int(cols)):
        raise ValueError(f"a grid is written as ROWSxCOLUMNS, such as 2x3, got {text!r}")
    return Grid(int(rows), int(cols))


def grid_of(height: int, width: int, tile: int) -> Grid:
    """The grid of an image of `height x width` pixels cut into tiles of `tile` pixels.

    Raises:
        ValueError: a side is not a positive multiple of `tile` (the released code silently drops the
            remainder).
    """
    if tile <= 0:
        raise ValueError(f"the tile size must be a positive number of pixels, got {tile}")
    if height <= 0 or width <= 0 or height % tile or width % tile:
        raise ValueError(
            f"an image of {height}x{width} pixels (height x width) does not divide into tiles of {tile} "
            f"pixels: resize it to a multiple of {tile} on both sides first"
        )
    return Grid(height // tile, width // tile)


def split_tiles(image: torch.Tensor, tile: int) -> torch.Tensor:
    """Cut `[..., C, H, W]` into `[..., rows*cols, C, tile, tile]`, row by row, without overlap."""
    *batch, channels, height, width = image.shape
    rows, cols = grid_of(height, width, tile)
    cells = image.reshape(*batch, channels, rows, tile, cols, tile)
    n = len(batch)
    order = (*range(n), n + 1, n + 3, n, n + 2, n + 4)
    return cells.permute(order).reshape(*batch, rows * cols, channels, tile, tile)


def join_tiles(tiles: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Put `[..., rows*cols, C, tile, tile]` together to `[..., C, H, W]`: the inverse of `split_tiles`.

    Raises:
        ValueError: the number of tiles is not that of the grid.
    """
    *batch, count, channels, tile, _ = tiles.shape
    rows, cols = grid
    if count != rows * cols:
        raise ValueError(f"a {rows}x{cols} grid has {rows * cols} tiles, got {count}")
    cells = tiles.reshape(*batch, rows, cols, channels, tile, tile)
    n = len(batch)
    order = (*range(n), n + 2, n, n + 3, n + 1, n + 4)
    return cells.permute(order).reshape(*batch, channels, rows * tile, cols * tile)


def tile_boxes(grid: Grid, tile: int) -> list[tuple[int, int, int, int]]:
    """Pixel boxes `(x0, y0, x1, y1)` of the tiles, row by row; `x1` and `y1` lie outside the tile."""
    rows, cols = grid
    return [
        (col * tile, row * tile, (col + 1) * tile, (row + 1) * tile)
        for row in range(rows)
        for col in range(cols)
    ]


def global_view(image: torch.Tensor, tile: int) -> torch.Tensor:
    """The whole image `[..., C, H, W]` shrunk to `[..., C, tile, tile]`.

    Bicubic (a = -0.75) without antialiasing, from the resized and normalised image: what the released code
    does, and not the same as shrinking the original image with Pillow.
    """
    flat = image.reshape(-1, *image.shape[-3:])
    small = F.interpolate(flat, size=(tile, tile), mode="bicubic", align_corners=False)
    return small.reshape(*image.shape[:-2], tile, tile)


ResizeMode = Literal["stretch", "pad", "crop"]


def check_resize_mode(resize_mode: str) -> None:
    """Raises:
    ValueError: there is no such way to fit an image.
    """
    if resize_mode not in get_args(ResizeMode):
        raise ValueError(f"resize_mode is one of 'stretch', 'pad' and 'crop', got {resize_mode!r}")


def resize(
    image: Image.Image,
    width: int,
    height: int,
    mode: ResizeMode = "stretch",
    colour: Sequence[float] = (0, 0, 0),
) -> Image.Image:
    """The image at `width x height` pixels, resized by Pillow's bicubic.

    Args:
        image: RGB.
        width, height: in pixels.
        mode: "stretch" ignores the aspect ratio (the released Monkey). "pad" first lays the image in the
            middle of the smallest canvas of the new aspect ratio (LLaVA-1.5's own code, for a square one).
            "crop" keeps the aspect ratio and cuts off what is too long, at both ends (CLIP's own
            preprocessing, and LLaVA-1.5's in transformers unless it is told to pad).
        colour: of the canvas, each channel 0 to 1; LLaVA-1.5 takes the mean of CLIP's pixels.
    """
    if mode == "pad":
        image = _padded(image, width, height, colour)
    if mode != "crop":
        return image.resize((width, height), Image.Resampling.BICUBIC)
    before, above = image.size
    if before * height <= above * width:  # too high
        size = (width, int(width * above / before))
    else:
        size = (int(height * before / above), height)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    resized = image.resize(size, Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + width, top + height))


def _padded(image: Image.Image, width: int, height: int, colour: Sequence[float]) -> Image.Image:
    """The image in the middle of a canvas whose sides are as `width` to `height`."""
    own_width, own_height = image.size
    size = (
        max(own_width, round(own_height * width / height)),
        max(own_height, round(own_width * height / width)),
    )
    canvas = Image.new("RGB", size, tuple(int(channel * 255) for channel in colour))
    canvas.paste(image, ((size[0] - own_width) // 2, (size[1] - own_height) // 2))
    return canvas
