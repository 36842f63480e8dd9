import pytest

from monkeylib.model import MonkeyConfig
from monkeylib.model.tile_lora import lora_of_tiles
from monkeylib.raising.grids import TileGrids
from monkeylib.tiling import AutoGrid, Grid


@pytest.mark.parametrize("grid", [(2, 2), "2x2", [(2, 2), (3, 1)], [[2, 2]]])
def test_first_grid_is_the_default(grid):
    grids = TileGrids.of(grid)
    assert grids.select((90, 70), 28) == Grid(2, 2)
    assert grids.tiles == 4


def test_named_grids_number_their_own_tiles_and_others_by_position():
    grids = TileGrids.of([(2, 3), (4, 1)])
    assert grids.tile_numbers(Grid(4, 1)) == [0, 1, 2, 3]
    assert grids.tile_numbers(Grid(2, 2)) == [0, 1, 3, 4]
    assert grids.tile_numbers(Grid(0, 0)) == []
    assert str(grids) == "2x3, 4x1"


@pytest.mark.parametrize(("rows", "cols"), [(2, 2), (1, 2), (2, 1), (1, 1)])
def test_tile_numbers_are_those_of_our_own_model(rows, cols):
    config = MonkeyConfig(grids=[[2, 2]])
    assert TileGrids.of((2, 2)).tile_numbers(Grid(rows, cols)) == lora_of_tiles(config, rows, cols)

    config = MonkeyConfig(max_tiles=4)
    assert TileGrids.of("auto:4").tile_numbers(Grid(rows, cols)) == lora_of_tiles(config, rows, cols)
    assert TileGrids.of("auto:4").tiles == config.lora_count


def test_automatic_grid_follows_the_shape():
    grids = TileGrids.of("auto:4")
    assert grids.select((200, 50), 28) == Grid(1, 4)
    assert grids.select((100, 100), 28) == Grid(2, 2)
    assert grids.select((100, 100), 28, "auto:2").tiles <= 2


def test_automatic_choice_stays_within_the_named_grid():
    grids = TileGrids.of((2, 2))
    assert grids.select((200, 50), 28, AutoGrid()) == Grid(1, 2)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("auto", "needs a number of tiles"),
        ([(2, 2), "auto:4"], "stands alone"),
        ((0, 0), "no grid of tiles"),
        ((100, 1000), "number of tiles"),
        ("two", "ROWSxCOLUMNS"),
    ],
)
def test_impossible_grids_raise(grid, message):
    with pytest.raises(ValueError, match=message):
        TileGrids.of(grid)


def test_grid_without_adapters_raises():
    with pytest.raises(ValueError, match="raised to 2x2, and has no adapters for the tiles of 1x3"):
        TileGrids.of((2, 2)).select((90, 70), 28, (1, 3))
