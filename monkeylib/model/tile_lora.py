"""Per-tile LoRA: tile `i` of an image goes through LoRA `i`, the global view through none (unless the
configuration's `lora_on_global_view` says otherwise).

Beside each projection `W` of the frozen ViT stands one low-rank adapter (LoRA) per tile position. The patches
`x` of tile `i` become (paper section 3.1)

    y = W x + scaling_i * B_i A_i dropout(x)

with `A_i [rank, d_in]`, `B_i [d_out, rank]` and a number `scaling_i`. The released code keeps a list of
modules per projection, runs the ViT once per tile, and passes the tile's number down to pick the module.
Here the LoRAs of all tile positions are stacked in three tensors, and all tiles of a batch go through the
ViT together:

1. `lora_index_of_image` says which LoRA each view (tile or global view) of an image meets: `0, 1, 2, 3` and
   `NO_LORA` for a 2x2 grid and its global view.
2. `plan_chunks` sorts the views of a batch by that number, so that the views of one tile position are
   neighbours, and cuts them into chunks that go through the ViT in one pass.
3. `TileLoRA.add` multiplies each group of neighbours by its own `A_i` and `B_i`, all groups in one product.
"""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from monkeylib.model.config import MonkeyConfig
from monkeylib.tiling import AutoGrid, Grid

# The index of a view that goes through the ViT alone. It sorts before every LoRA.
NO_LORA = -1


def lora_index_of_image(config: MonkeyConfig, rows: int, cols: int, use_lora: bool = True) -> list[int]:
    """Return the LoRA that each view of an image meets: its tiles row by row, then the global view.

    Args:
        config: its `lora_mode` decides. "per_tile" gives tile `i` LoRA `i`, or the LoRA of its position
            (`lora_of_tiles`), "shared" gives every tile LoRA 0, and "none" and "full" have no
            LoRA. The global view meets one only where `lora_on_global_view` says so.
        rows, cols: the image's grid; 0 and 0 for an image of one global view.
        use_lora: False for views that meet none, in any grid.

    Raises:
        ValueError: a grid that the model was not trained on.

    >>> from monkeylib.model import MonkeyConfig
    >>> lora_index_of_image(MonkeyConfig(grids=[[2, 2]]), 2, 2)
    [0, 1, 2, 3, -1]
    >>> lora_index_of_image(MonkeyConfig(max_tiles=4), 2, 1)  # the LoRAs of the positions (0, 0) and (1, 0)
    [0, 4, -1]
    """
    if use_lora:
        check_grid(config, rows, cols)
    tiles = rows * cols

    if not use_lora:
        index = [NO_LORA] * tiles
    elif config.lora_mode == "per_tile":
        index = lora_of_tiles(config, rows, cols)
    elif config.lora_mode == "shared":
        index = [0] * tiles
    else:
        index = [NO_LORA] * tiles

    # An image of one view always has the global view.
    if config.views != "tiles" or not tiles:
        index.append(_lora_of_global_view(config) if use_lora else NO_LORA)
    return index


def lora_of_tiles(config: MonkeyConfig, rows: int, cols: int) -> list[int]:
    """Return the per-tile LoRA that each tile of a grid meets, row by row.

    In a grid of `grids` tile i meets LoRA i. In another one, a tile meets the LoRA of its position.

    Raises:
        ValueError: there is no LoRA for some of its tiles.
    """
    check_grid(config, rows, cols)
    if [rows, cols] in config.grids:
        return list(range(rows * cols))

    number_at = {position: number for number, position in enumerate(config.lora_positions)}
    return [number_at[row, col] for row in range(rows) for col in range(cols)]


def _lora_of_global_view(config: MonkeyConfig) -> int:
    """Return the LoRA of the global view: the last one, LoRA 0 in the mode "shared", or `NO_LORA`."""
    if not config.lora_on_global_view or not config.lora_count:
        return NO_LORA
    return config.lora_count - 1


def check_grid(config: MonkeyConfig, rows: int, cols: int) -> None:
    """Check that the model takes images of a grid; without per-tile LoRA it takes tiles of any.

    Raises:
        ValueError: it has seen no tiles in training, or has no LoRA for some tiles of this grid.
    """
    tiles = rows * cols
    if not tiles or [rows, cols] in config.grids:
        return

    if not config.grids and config.max_tiles is None:
        raise ValueError(
            f"this checkpoint was made for one global view per image, got an image of {rows}x{cols} "
            f"tiles: leave the grid out, or train it with tiles (in Python, model.use_grid({rows}, "
            f"{cols}) adds this grid)"
        )
    if config.lora_mode != "per_tile":
        return

    if config.max_tiles is not None:
        if tiles > config.max_tiles:
            raise ValueError(
                f"this checkpoint was made for grids of up to {config.max_tiles} tiles, got an image of "
                f"{rows}x{cols} tiles: choose a smaller grid"
            )
    elif (rows - 1, cols - 1) not in config.lora_positions:
        first = Grid(*config.grids[0])
        accepted = ", ".join(f"{rows}x{cols}" for rows, cols in config.grids)
        raise ValueError(
            f"this checkpoint was made for the grid {accepted} (rows x columns), got an image of "
            f"{rows}x{cols} tiles: choose a grid that it was made for, one inside {first}, or auto, "
            "which chooses one of these by the image's shape; or train with `--set grid=auto` for grids "
            f"of any shape (in Python, model.use_grid({rows}, {cols}) adds this one)"
        )


def limit_auto_grid(config: MonkeyConfig, grid: AutoGrid) -> AutoGrid:
    """Return an automatic grid limited to the grids that the model takes.

    Without a number of tiles it has at most as many as the model was trained with.

    Raises:
        ValueError: the model takes no tiles, or has no LoRA for so many.
    """
    if not config.grids and config.max_tiles is None:
        raise ValueError(
            "this checkpoint was made for one global view per image and takes no tiles: leave the grid "
            "out, or train it with tiles"
        )

    first = None if config.max_tiles is not None else Grid(*config.grids[0])
    trained = config.max_tiles if first is None else first.tiles
    if grid.max_tiles is None:
        grid = AutoGrid(trained, grid.within)
    if config.lora_mode != "per_tile":
        return grid

    if grid.max_tiles > trained:
        trained_with = f"grids of up to {trained} tiles" if first is None else f"the grid {first}"
        raise ValueError(
            f"this checkpoint has LoRA for the tiles of {trained_with}, not for {grid.max_tiles} tiles: "
            f"choose auto or auto:{trained}, or train with `--set grid=auto --set "
            f"max_tiles={grid.max_tiles}`"
        )

    if first is not None:
        within = grid.within or first
        grid = AutoGrid(grid.max_tiles, Grid(min(first.rows, within.rows), min(first.cols, within.cols)))
    return grid


class Chunk(NamedTuple):
    """Views of a batch that go through the ViT in one pass.

    Fields:
        views: their places in the batch.
        lora_groups: LoRA numbers; the views are as many consecutive groups of equal size, and group `j` meets
            LoRA `lora_groups[j]`. None where the views meet none.
    """

    views: list[int]
    lora_groups: list[int] | None


def plan_chunks(lora_index: list[int], chunk_size: int) -> list[Chunk]:
    """Sort the views of a batch by their LoRA and cut them into chunks of at most `chunk_size` views.

    Views without LoRA come first and never share a chunk with others: they cost no LoRA arithmetic and, while
    the ViT is frozen, no gradient.

    Args:
        lora_index: the LoRA of each view, `NO_LORA` for none.
        chunk_size: the most views that go through the ViT at once.

    >>> plan_chunks([0, 1, -1, 0, 1, -1], chunk_size=4)  # two images of two tiles and a global view
    [Chunk(views=[2, 5], lora_groups=None), Chunk(views=[0, 3, 1, 4], lora_groups=[0, 1])]
    """
    # The sort is stable, so views of one tile position keep the order of their images.
    order = sorted(range(len(lora_index)), key=lora_index.__getitem__)
    without_lora = lora_index.count(NO_LORA)

    chunks = []
    for start in range(0, without_lora, chunk_size):
        end = min(start + chunk_size, without_lora)
        chunks.append(Chunk(order[start:end], lora_groups=None))

    for start in range(without_lora, len(order), chunk_size):
        views = order[start : start + chunk_size]
        chunks.append(Chunk(views, group_neighbours([lora_index[view] for view in views])))

    return chunks


def group_neighbours(lora_index: list[int]) -> list[int]:
    """Return the LoRA of each group, where neighbouring views that meet the same LoRA form a group.

    Groups must be equally large to be multiplied at once. Where they are not, every view is its own group.

    >>> group_neighbours([0, 0, 1, 1])
    [0, 1]
    >>> group_neighbours([0, 0, 1])
    [0, 0, 1]
    """
    runs = [(number, len(list(views))) for number, views in groupby(lora_index)]
    sizes = {size for _, size in runs}
    return [number for number, _ in runs] if len(sizes) == 1 else lora_index


class TileLoRA(nn.Module):
    """The LoRAs of all tile positions beside one projection, stacked.

    As in the released code, `scaling` is learned and starts at 1, and there is no factor alpha / rank. `B`
    starts at zero, so that a fresh LoRA changes nothing.

    Parameters:
        lora_A: `[tiles, rank, d_in]`.
        lora_B: `[tiles, d_out, rank]`.
        scaling: `[tiles]`.
    """

    def __init__(self, tiles: int, rank: int, d_in: int, d_out: int, dropout: float) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(torch.empty(tiles, rank, d_in))
        self.lora_B = nn.Parameter(torch.empty(tiles, d_out, rank))
        self.scaling = nn.Parameter(torch.empty(tiles))
        self.dropout = dropout
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise A uniformly within +-1 / sqrt(d_in), B with zeros and the scaling with ones.

        The bound of A is that of the released code, which writes it as Kaiming-uniform with a = sqrt(5).
        """
        bound = 1 / math.sqrt(self.lora_A.shape[-1])
        nn.init.uniform_(self.lora_A, -bound, bound)
        nn.init.zeros_(self.lora_B)
        nn.init.ones_(self.scaling)

    def add(self, output: torch.Tensor, x: torch.Tensor, lora_groups: torch.Tensor) -> torch.Tensor:
        """Add `scaling_i * B_i A_i dropout(x)` to the projection's output, in place.

        Args:
            output: `[views, patches, d_out]`, what the projection gave for `x`.
            x: `[views, patches, d_in]`.
            lora_groups: `[groups]` LoRA numbers as in `Chunk`.

        Returns:
            `output`.
        """
        # Here tile i meets LoRA i: group j holds the tiles of position lora_groups[j].
        lora_A = self.lora_A[lora_groups]  # [groups, rank, d_in]
        lora_B = self.lora_B[lora_groups]  # [groups, d_out, rank]
        # [groups, 1, 1], to be multiplied with lora_A
        scaling = self.scaling[lora_groups][:, None, None]

        # The views of a group are neighbours, so their patches are one matrix: [groups, patches, d_in].
        groups = len(lora_groups)
        grouped = F.dropout(x, self.dropout, self.training).reshape(groups, -1, x.shape[-1])
        low_rank = torch.bmm(grouped, (lora_A * scaling).transpose(1, 2))  # [groups, patches, rank]

        # Autocast does not reach in-place products: both factors are cast to the precision of `output`.
        low_rank, lora_B = low_rank.to(output.dtype), lora_B.to(output.dtype)
        output.view(groups, -1, output.shape[-1]).baddbmm_(low_rank, lora_B.transpose(1, 2))
        return output

    @torch.no_grad()
    def rearrange(self, sources: Sequence[int | None]) -> None:
        """Replace the LoRAs by copies of those of the numbers in `sources`, fresh ones in place of None."""
        _, rank, d_in = self.lora_A.shape
        d_out = self.lora_B.shape[1]
        # `.to` gives it the device and precision of this one.
        fresh = TileLoRA(len(sources), rank, d_in, d_out, self.dropout).to(self.lora_A)

        for name, values in fresh.named_parameters():
            parameter = getattr(self, name)
            for number, source in enumerate(sources):
                if source is not None:
                    values[number] = parameter[source]
            setattr(self, name, nn.Parameter(values.detach(), requires_grad=parameter.requires_grad))


def tile_loras(module: nn.Module) -> list[TileLoRA]:
    """Return the `TileLoRA` modules of a model or backbone, in the order of its modules."""
    return [part for part in module.modules() if isinstance(part, TileLoRA)]
