"""Grids of a raised model: which grid an image gets, and the number of each of its tiles.

Tile numbers are what adapters are found by. They follow `lora_of_tiles`: in a grid that was
named when the model was raised, tile i is number i; in a smaller one, a tile has the number of its position.
"""

from dataclasses import dataclass
from typing import Any

from monkeylib import tiling
from monkeylib.model.limits import MAX_TILES, check_size
from monkeylib.tiling import AutoGrid, Grid, as_grid, grid_positions

# The number of a view that meets no adapter: the global view.
GLOBAL_VIEW = -1


@dataclass(frozen=True)
class TileGrids:
    """Grids that a raised model has adapters for.

    Fields:
        grids: named grids; an image gets the first unless another is requested.
        max_tiles: give each image the grid of its shape, of at most so many tiles, in place of named grids.
    """

    grids: tuple[Grid, ...] = ()
    max_tiles: int | None = None

    def __post_init__(self) -> None:
        for grid in self.grids:
            check_size("the number of tiles of a grid", grid.tiles, MAX_TILES)
        if self.max_tiles is not None:
            check_size("the number of tiles of an automatic grid", self.max_tiles, MAX_TILES)
        if not self.grids and self.max_tiles is None:
            raise ValueError('there is no grid of tiles: name one or more, such as (2, 2), "2x3" or "auto:6"')

    @classmethod
    def of(cls, grid: Any) -> "TileGrids":
        """Return the grids of one grid, a list of grids, or an automatic choice such as "auto:6".

        Raises:
            ValueError: it is none of these.
        """
        is_list = isinstance(grid, list) or (isinstance(grid, tuple) and not _is_pair(grid))
        grids = [as_grid(one) for one in (grid if is_list else [grid])]
        if len(grids) == 1 and isinstance(grids[0], AutoGrid):
            if grids[0].max_tiles is None:
                raise ValueError('an automatic grid needs a number of tiles here: write, say, "auto:6"')
            return cls(max_tiles=grids[0].max_tiles)

        if any(isinstance(one, AutoGrid) for one in grids):
            raise ValueError(f"grid is {grid!r}: an automatic grid stands alone")
        return cls(grids=tuple(one for one in grids if one.tiles))

    @property
    def tiles(self) -> int:
        """Number of tile numbers: that of the largest grid, or of all positions."""
        if self.max_tiles is not None:
            return len(grid_positions(self.max_tiles))
        return max(grid.tiles for grid in self.grids)

    @property
    def largest(self) -> int:
        """The most tiles of one image."""
        return self.max_tiles or self.tiles

    def select(self, size: tuple[int, int], tile_size: int, grid: Any = None) -> Grid:
        """Return the grid of an image.

        Args:
            size: width and height of the image in pixels.
            tile_size: side of a tile in pixels.
            grid: requested instead of the default; (0, 0) for the global view alone.

        Raises:
            ValueError: there are no adapters for its tiles.
        """
        requested = self._default if grid is None else as_grid(grid)
        if not isinstance(requested, AutoGrid):
            self.tile_numbers(requested)
            return requested

        most = requested.max_tiles or self.largest
        within = requested.within if self.max_tiles is not None else self.grids[0]
        selected = tiling.select_grid(*size, tile_size, min(most, self.largest), within)
        return selected

    @property
    def _default(self) -> Grid | AutoGrid:
        return self.grids[0] if self.max_tiles is None else AutoGrid(self.max_tiles)

    def tile_numbers(self, grid: Grid) -> list[int]:
        """Return the number of each tile of a grid, row by row.

        Raises:
            ValueError: there are no adapters for some of its tiles.

        >>> TileGrids.of("2x3").tile_numbers(Grid(2, 2))
        [0, 1, 3, 4]
        """
        if grid in self.grids or not grid.tiles:
            return list(range(grid.tiles))

        number_at = {position: number for number, position in enumerate(self.positions)}
        positions = [(row, col) for row in range(grid.rows) for col in range(grid.cols)]
        if not number_at.keys() >= set(positions):
            raise ValueError(
                f"this model was raised to {self}, and has no adapters for the tiles of {grid}: request a "
                "grid that lies within these, or raise the model to it"
            )
        return [number_at[position] for position in positions]

    @property
    def positions(self) -> list[tuple[int, int]]:
        """Row and column of each tile number: those of the first grid, or of all grids of so many tiles."""
        if self.max_tiles is not None:
            return grid_positions(self.max_tiles)
        rows, cols = self.grids[0]
        return [(row, col) for row in range(rows) for col in range(cols)]

    def __str__(self) -> str:
        if self.max_tiles is not None:
            return f"up to {self.max_tiles} tiles"
        return ", ".join(map(str, self.grids))


def _is_pair(grid: tuple) -> bool:
    return len(grid) == 2 and all(isinstance(side, int) for side in grid)
