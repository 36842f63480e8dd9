"""Resize an image, cut it into tiles, join tiles again, and make the global view.

An image of `rows x cols` tiles of one size is a `Grid`. Tiles are numbered row by row. Paper section 3.1;
sizes and the global view follow the released code. There every image has the same grid, whatever its shape;
an `AutoGrid` chooses one by the image's shape (`select_grid`).

Neighbouring tiles may share a strip of `overlap` pixels, as sliding windows do. In the paper they share none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, NamedTuple, get_args

import torch
from PIL import Image
from torch.nn import functional as F

ResizeMode = Literal["stretch", "pad", "crop"]
# What the global view is made of: the resized and normalised image, or the image itself.
GlobalFrom = Literal["resized", "original"]

MAX_PIXELS = 10**8  # of the tiles of an image: 1.2 GB in fp32


class Grid(NamedTuple):
    """Grid of the tiles of an image: `rows` down, `cols` across."""

    rows: int
    cols: int

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return self.rows * self.cols

    def __str__(self) -> str:
        return f"{self.rows}x{self.cols}"


@dataclass(frozen=True)
class AutoGrid:
    """The choice of a grid by each image's shape, see `select_grid`; written "auto" or "auto:6".

    Fields:
        max_tiles: the most tiles of an image; by default as many as the processor is set to.
        within: choose only grids of at most these rows and columns.
    """

    max_tiles: int | None = None
    within: Grid | None = None

    def __post_init__(self) -> None:
        tiles = self.max_tiles
        if tiles is not None and (not isinstance(tiles, int) or isinstance(tiles, bool) or tiles < 1):
            raise ValueError(f"an automatic grid has at least 1 tile, got at most {tiles!r}")
        if self.within is not None and (not isinstance(self.within, Grid) or min(self.within) < 1):
            raise ValueError(f"an automatic grid lies within a Grid of at least 1x1, got {self.within!r}")

    def __str__(self) -> str:
        return "auto" if self.max_tiles is None else f"auto:{self.max_tiles}"


def parse_grid(text: str) -> Grid | AutoGrid:
    """Parse a grid that is written as rows, "x", columns, or the automatic choice with its most tiles.

    Raises:
        ValueError: the text is not of that form.

    >>> parse_grid("2x3")
    Grid(rows=2, cols=3)
    >>> parse_grid("auto:6")
    AutoGrid(max_tiles=6, within=None)
    """
    if text == "auto":
        return AutoGrid()

    name, _, tiles = text.partition(":")
    if name == "auto" and tiles.isdecimal() and int(tiles):
        return AutoGrid(int(tiles))

    rows, _, cols = text.partition("x")
    if not (rows.isdecimal() and cols.isdecimal() and int(rows) and int(cols)):
        raise ValueError(
            f"a grid is written as ROWSxCOLUMNS, such as 2x3, or as auto or auto:TILES, such as auto:6, "
            f"got {text!r}"
        )
    return Grid(int(rows), int(cols))


def as_grid(grid: Any) -> Grid | AutoGrid:
    """Return a grid that may be given as a text (`parse_grid`) or as a pair of rows and columns.

    Rows and columns of 0 stand for an image without tiles.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(grid, AutoGrid):
        return grid
    if isinstance(grid, str):
        return parse_grid(grid)

    is_pair = isinstance(grid, list | tuple) and len(grid) == 2
    is_whole = is_pair and all(type(side) is int and side >= 0 for side in grid)
    # An image has rows and columns of tiles, or neither.
    if not is_whole or (0 in grid and any(grid)):
        raise ValueError(
            f'a grid is a pair of rows and columns, or a text such as "2x3" or "auto", got {grid!r}'
        )
    return Grid(*grid)


def select_grid(width: int, height: int, tile: int, max_tiles: int, within: Grid | None = None) -> Grid:
    """Choose the grid of an image by its shape.

    A side of the image has at most as many tiles as its pixels fill, the last of them perhaps in part: no
    tile shows enlarged pixels alone. Of these grids the one is chosen that distorts the image least when it
    is stretched over the tiles (`distortion`), and of grids of one shape, such as 1x2 and 2x4, the one with
    the most tiles, which keeps most of the image's pixels.

    There is always one such grid. Grids of two shapes would distort equally only if the image's own shape lay
    halfway between them, and then a grid of that shape has no more rows, columns or tiles than the larger.
    The arithmetic is exact, so that equal is equal on any machine.

    Args:
        width, height: of the image, in pixels.
        tile: side of a tile in pixels.
        max_tiles: the most tiles of the grid.
        within: take only grids of at most these rows and columns.

    Raises:
        ValueError: an image without pixels, or no grid is allowed.

    >>> select_grid(width=300, height=3000, tile=448, max_tiles=6)
    Grid(rows=6, cols=1)
    >>> select_grid(width=2000, height=1300, tile=448, max_tiles=6)
    Grid(rows=2, cols=3)
    """
    if min(width, height, tile, max_tiles, *(within or ())) < 1:
        raise ValueError(
            f"a grid needs an image, tiles and at least one of them, got {width}x{height} pixels, tiles of "
            f"{tile} and at most {max_tiles}"
        )

    # Rounded up: the last tile of a side may be filled in part.
    max_rows, max_cols = -(-height // tile), -(-width // tile)
    if within is not None:
        max_rows, max_cols = min(max_rows, within.rows), min(max_cols, within.cols)

    candidates = [
        Grid(rows, cols)
        for rows in range(1, min(max_rows, max_tiles) + 1)
        for cols in range(1, min(max_cols, max_tiles // rows) + 1)
    ]

    return min(candidates, key=lambda grid: (distortion(width, height, grid), -grid.tiles))


def distortion(width: int, height: int, grid: Grid) -> Fraction:
    """Return how many times more an image is stretched along one side than along the other: 1 for not at all.

    >>> distortion(width=300, height=3000, grid=Grid(2, 2))
    Fraction(10, 1)
    """
    across, down = Fraction(grid.cols, width), Fraction(grid.rows, height)
    return max(across, down) / min(across, down)


def grid_positions(max_tiles: int) -> list[tuple[int, int]]:
    """Return the positions `(row, col)` of the tiles of all grids of at most so many tiles, row by row.

    A position is a tile of such a grid if the grid that ends with it, `(row + 1) x (col + 1)`, is one.

    >>> grid_positions(3)
    [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)]
    """
    return [(row, col) for row in range(max_tiles) for col in range(max_tiles // (row + 1))]


def check_pixels(rows: int, cols: int, tile_size: int) -> None:
    """Check how many pixels the tiles of an image have together.

    Raises:
        ValueError: more than `MAX_PIXELS`.
    """
    pixels = rows * cols * tile_size**2
    if pixels > MAX_PIXELS:
        raise ValueError(
            f"{rows}x{cols} tiles of {tile_size} pixels are {pixels:,} pixels an image, more than the "
            f"{MAX_PIXELS:,} that are taken: use fewer or smaller tiles"
        )


def check_overlap(overlap: Any, tile: int) -> None:
    """Check how many pixels neighbouring tiles share.

    Raises:
        ValueError: no whole number from 0, below the tile's side.
    """
    if type(overlap) is not int or not 0 <= overlap < tile:
        raise ValueError(
            f"the overlap of tiles of {tile} pixels is a whole number of pixels from 0 to {tile - 1}, got "
            f"{overlap!r}"
        )


def covered_side(tiles: int, tile: int, overlap: int = 0) -> int:
    """Return the pixels that tiles in a row, or in a column, cover together.

    >>> covered_side(3, tile=96, overlap=48)
    192
    """
    return tile + (tiles - 1) * (tile - overlap)


def compute_grid(height: int, width: int, tile: int, overlap: int = 0) -> Grid:
    """Return the grid of an image of `height x width` pixels that is cut into tiles of `tile` pixels.

    Args:
        height, width: of the image, in pixels.
        tile: side of a tile in pixels.
        overlap: pixels that neighbouring tiles share.

    Raises:
        ValueError: tiles do not cover a side exactly (the released code silently drops the remainder), or an
            impossible overlap.

    >>> compute_grid(height=896, width=1344, tile=448)
    Grid(rows=2, cols=3)
    """
    if tile <= 0:
        raise ValueError(f"the tile size must be a positive number of pixels, got {tile}")
    check_overlap(overlap, tile)

    # The first tile of a side, and as many more as there are steps to the next one.
    step = tile - overlap
    if min(height, width) < tile or (height - tile) % step or (width - tile) % step:
        shared = f" that share {overlap}" if overlap else ""
        sides = f"{tile} and multiples of {step} more" if overlap else f"a multiple of {tile}"
        raise ValueError(
            f"an image of {height}x{width} pixels (height x width) does not divide into tiles of {tile} "
            f"pixels{shared}: resize it to {sides} on both sides first"
        )

    return Grid((height - tile) // step + 1, (width - tile) // step + 1)


def resize(
    image: Image.Image,
    width: int,
    height: int,
    mode: ResizeMode = "stretch",
    colour: Sequence[float] = (0, 0, 0),
) -> Image.Image:
    """Resize an image to `width x height` pixels, by Pillow's bicubic filter.

    Args:
        image: RGB.
        width, height: in pixels.
        mode: "stretch" ignores the aspect ratio (the released Monkey). "pad" first puts the image in the
            middle of the smallest canvas of the new aspect ratio (LLaVA-1.5's own code, for a square one).
            "crop" keeps the aspect ratio and cuts off what is too long, equally at both ends (CLIP's own
            preprocessing, and LLaVA-1.5's in transformers unless it is told to pad).
        colour: of the canvas, each channel 0 to 1; LLaVA-1.5 takes the mean of CLIP's pixels.
    """
    if mode == "crop":
        return _resize_and_crop(image, width, height)
    if mode == "pad":
        image = _pad_to_aspect_ratio(image, width, height, colour)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _resize_and_crop(image: Image.Image, width: int, height: int) -> Image.Image:
    """Resize so that the image just covers `width x height` pixels, and cut out the middle."""
    covering = covering_size(image.size, width, height)
    resized = image.resize(covering, Image.Resampling.BICUBIC)

    left = (covering[0] - width) // 2
    top = (covering[1] - height) // 2
    return resized.crop((left, top, left + width, top + height))


def covering_size(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """Return the width and height at which an image of a size just covers `width x height` pixels.

    One side fits exactly, the other is too long or fits too.
    """
    image_width, image_height = size
    is_too_high = image_width * height <= image_height * width
    if is_too_high:
        return width, int(width * image_height / image_width)
    return int(height * image_width / image_height), height


def canvas_size(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """Return the smallest width and height that hold an image of a size and are as `width` to `height`."""
    image_width, image_height = size
    return (
        max(image_width, round(image_height * width / height)),
        max(image_height, round(image_width * height / width)),
    )


def _pad_to_aspect_ratio(image: Image.Image, width: int, height: int, colour: Sequence[float]) -> Image.Image:
    """Put the image in the middle of the smallest canvas whose sides are as `width` to `height`."""
    image_width, image_height = image.size
    canvas_width, canvas_height = canvas_size(image.size, width, height)

    # Cut off, not rounded, as LLaVA-1.5 does.
    rgb = tuple(int(channel * 255) for channel in colour)
    canvas = Image.new("RGB", (canvas_width, canvas_height), rgb)
    canvas.paste(image, ((canvas_width - image_width) // 2, (canvas_height - image_height) // 2))
    return canvas


def check_resize_mode(resize_mode: str) -> None:
    """Check the name of a resize mode.

    Raises:
        ValueError: there is no such mode.
    """
    if resize_mode not in get_args(ResizeMode):
        modes = ", ".join(get_args(ResizeMode))
        raise ValueError(f"there is no resize mode called {resize_mode!r}: choose one of {modes}")


def split_tiles(
    image: torch.Tensor, tile: int, overlap: int = 0, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Cut an image into tiles, row by row.

    Args:
        image: `[..., C, H, W]`.
        tile: side of a tile in pixels.
        overlap: pixels that neighbouring tiles share.
        out: receives the tiles, instead of a new tensor.

    Returns:
        `[..., rows * cols, C, tile, tile]`.

    Raises:
        ValueError: the image does not divide into tiles.

    >>> image = torch.arange(16).reshape(1, 4, 4)
    >>> split_tiles(image, tile=2)[1]  # the upper right tile
    tensor([[[2, 3],
             [6, 7]]])
    >>> split_tiles(torch.zeros(5, 3, 896, 1344), tile=448).shape  # five images of 2x3 tiles
    torch.Size([5, 6, 3, 448, 448])
    """
    *batch, channels, height, width = image.shape
    rows, cols = compute_grid(height, width, tile, overlap)

    # Windows down the height, then along the width: [..., C, rows, cols, tile, tile]
    step = tile - overlap
    cells = image.unfold(-2, tile, step).unfold(-2, tile, step)

    # Bring the place of a tile before its channels: [..., rows, cols, C, tile, tile]
    n = len(batch)
    cells = cells.permute(*range(n), n + 1, n + 2, n, n + 3, n + 4)

    # Number the tiles row by row.
    if out is None:
        return cells.reshape(*batch, rows * cols, channels, tile, tile)
    out.unflatten(n, (rows, cols)).copy_(cells)
    return out


def join_tiles(tiles: torch.Tensor, grid: Grid, overlap: int = 0) -> torch.Tensor:
    """Join tiles to the image that they were cut from: the inverse of `split_tiles`.

    Args:
        tiles: `[..., rows * cols, C, tile, tile]`.
        grid: rows and columns.
        overlap: pixels that neighbouring tiles share; there the image is the mean of what the tiles say.

    Returns:
        `[..., C, height, width]`, without overlap `[..., C, rows * tile, cols * tile]`.

    Raises:
        ValueError: the number of tiles is not that of the grid, or an impossible overlap.
    """
    *batch, count, channels, tile, _ = tiles.shape
    rows, cols = grid
    if count != rows * cols:
        raise ValueError(f"a {rows}x{cols} grid has {rows * cols} tiles, got {count}")
    check_overlap(overlap, tile)
    if overlap:
        return _join_by_mean(tiles, Grid(rows, cols), overlap)

    # Number the tiles by row and column: [..., rows, cols, C, tile, tile]
    cells = tiles.reshape(*batch, rows, cols, channels, tile, tile)

    # Bring rows beside the height of a tile and columns beside its width: [..., C, rows, tile, cols, tile]
    n = len(batch)
    cells = cells.permute(*range(n), n + 2, n, n + 3, n + 1, n + 4)
    return cells.reshape(*batch, channels, rows * tile, cols * tile)


def _join_by_mean(tiles: torch.Tensor, grid: Grid, overlap: int) -> torch.Tensor:
    """Join overlapping tiles: every pixel is the mean of the tiles that show it."""
    tile = tiles.shape[-1]
    height, width = covered_side(grid.rows, tile, overlap), covered_side(grid.cols, tile, overlap)
    total = tiles.new_zeros(*tiles.shape[:-4], tiles.shape[-3], height, width)
    counts = tiles.new_zeros(height, width)

    for number, (x0, y0, x1, y1) in enumerate(tile_boxes(grid, tile, overlap)):
        total[..., y0:y1, x0:x1] += tiles[..., number, :, :, :]
        counts[y0:y1, x0:x1] += 1
    return total / counts


def tile_boxes(grid: Grid, tile: int, overlap: int = 0) -> list[tuple[int, int, int, int]]:
    """Return the pixel boxes `(x0, y0, x1, y1)` of the tiles, row by row; `x1` and `y1` lie outside.

    >>> tile_boxes(Grid(1, 3), tile=96, overlap=48)
    [(0, 0, 96, 96), (48, 0, 144, 96), (96, 0, 192, 96)]
    """
    step = tile - overlap
    boxes = []
    for row in range(grid.rows):
        for col in range(grid.cols):
            x0, y0 = col * step, row * step
            boxes.append((x0, y0, x0 + tile, y0 + tile))
    return boxes


def global_view(image: torch.Tensor, tile: int) -> torch.Tensor:
    """Shrink an image `[..., C, H, W]` to one view `[..., C, tile, tile]`.

    Bicubic (a = -0.75) without antialiasing, from the resized and normalised image: what the released code
    does, and not the same as shrinking the original image with Pillow.
    """
    # Interpolation takes one batch dimension: [n, C, H, W].
    flat = image.reshape(-1, *image.shape[-3:])
    small = F.interpolate(flat, size=(tile, tile), mode="bicubic", align_corners=False)
    return small.reshape(*image.shape[:-2], tile, tile)
