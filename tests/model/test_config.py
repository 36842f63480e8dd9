"""Which grids a model takes, and which LoRA a tile of them meets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeylib.model import MonkeyConfig, MonkeyResamplerConfig, MonkeyVisionConfig
from monkeylib.tiling import AutoGrid, Grid


@pytest.mark.parametrize(
    "grid, loras",
    [((2, 3), [0, 1, 2, 3, 4, 5]), ((1, 1), [0]), ((1, 2), [0, 1]), ((2, 1), [0, 3]), ((2, 2), [0, 1, 3, 4])],
)
def test_tiles_of_a_grid_inside_the_trained_one_meet_the_lora_of_their_position(grid, loras):
    assert MonkeyConfig(grids=[[2, 3]]).lora_of_tiles(*grid) == loras


@pytest.mark.parametrize(
    "grid, loras",
    [((1, 4), [0, 1, 2, 3]), ((2, 2), [0, 1, 4, 5]), ((4, 1), [0, 4, 6, 7]), ((3, 1), [0, 4, 6])],
)
def test_tiles_of_automatic_grids_meet_the_lora_of_their_position(grid, loras):
    config = MonkeyConfig(max_tiles=4)
    assert config.lora_count == 8
    assert config.lora_of_tiles(*grid) == loras


@given(max_tiles=st.integers(1, 12), rows=st.integers(1, 12), cols=st.integers(1, 12))
def test_each_lora_of_automatic_grids_has_one_position(max_tiles, rows, cols):
    config = MonkeyConfig(max_tiles=max_tiles)
    if rows * cols > max_tiles:
        with pytest.raises(
            ValueError, match=f"grids of up to {max_tiles} tiles, got an image of {rows}x{cols}"
        ):
            config.lora_of_tiles(rows, cols)
        return

    positions = [config.lora_positions[number] for number in config.lora_of_tiles(rows, cols)]
    assert positions == [(row, col) for row in range(rows) for col in range(cols)]


def test_an_added_grid_numbers_its_tiles_row_by_row():
    config = MonkeyConfig(grids=[[2, 2], [3, 1]])
    assert config.lora_of_tiles(3, 1) == [0, 1, 2]
    assert config.lora_of_tiles(2, 1) == [0, 2]


@pytest.mark.parametrize("grid", [(3, 1), (1, 3), (6, 1)])
def test_grid_beyond_the_trained_one_raises(grid):
    with pytest.raises(ValueError, match="made for the grid 2x2 .* one inside 2x2, or auto.*--set grid=auto"):
        MonkeyConfig(grids=[[2, 2]]).check_grid(*grid)


@pytest.mark.parametrize("mode", ["shared", "none", "full"])
def test_any_grid_is_taken_where_no_lora_belongs_to_a_position(mode):
    for config in (MonkeyConfig(grids=[[2, 2]], lora_mode=mode), MonkeyConfig(max_tiles=4, lora_mode=mode)):
        config.check_grid(7, 3)
        assert config.limit_auto_grid(AutoGrid(9)) == AutoGrid(9)
        assert config.limit_auto_grid(AutoGrid()) == AutoGrid(4)


def test_model_of_one_view_takes_no_tiles():
    config = MonkeyConfig(lora_mode="none", views="global")
    config.check_grid(0, 0)
    with pytest.raises(
        ValueError, match="one global view per image, got an image of 2x2 tiles: leave the grid"
    ):
        config.check_grid(2, 2)
    with pytest.raises(ValueError, match="takes no tiles"):
        config.limit_auto_grid(AutoGrid(4))


def test_automatic_grids_of_a_fixed_checkpoint_lie_inside_its_grid():
    config = MonkeyConfig(grids=[[2, 3]])
    assert config.limit_auto_grid(AutoGrid()) == AutoGrid(6, within=Grid(2, 3))
    assert config.limit_auto_grid(AutoGrid(2)) == AutoGrid(2, within=Grid(2, 3))
    assert config.limit_auto_grid(AutoGrid(4, Grid(1, 9))) == AutoGrid(4, within=Grid(1, 3))


@pytest.mark.parametrize("config", [MonkeyConfig(grids=[[2, 3]]), MonkeyConfig(max_tiles=6)])
def test_automatic_grids_of_more_tiles_than_lora_raise(config):
    with pytest.raises(ValueError, match="choose auto or auto:6, or train with .*--set max_tiles=7"):
        config.limit_auto_grid(AutoGrid(7))


@pytest.mark.parametrize("max_tiles", [0, -1, 2.5, True, "4", 10**6])
def test_impossible_number_of_tiles_raises(max_tiles):
    with pytest.raises(Exception, match="max_tiles"):
        MonkeyConfig(max_tiles=max_tiles)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"views": "tile"}, "no setting of views called 'tile': choose one of tiles.global"),
        ({"lora_mode": "per-tile"}, "no lora_mode called 'per-tile': choose one of per_tile"),
        ({"mlp_lora_input": "norm"}, "no mlp_lora_input called 'norm': choose one of residual"),
        ({"lora_dropout": 1.5}, "lora_dropout is 1.5: expected a number from 0, below 1"),
        ({"lora_dropout": "a"}, "lora_dropout is 'a'"),
        ({"vision_config": {"width": [8, 8]}}, "width is .8, 8.: expected a whole number"),
        ({"vision_config": {"num_attention_heads": [8]}}, "heads is .8.: expected a whole number"),
        ({"resampler_config": {"queries": [16]}}, "queries is .16.: expected a whole number"),
        ({"attention_rank": -1}, "attention_rank is -1: expected a whole number from 0 to"),
        ({"attention_rank": 0, "mlp_rank": 0}, "'per_tile' with .* 0 and mlp_rank 0 has no LoRA: set one"),
        ({"lora_on_global_view": 1}, "lora_on_global_view is 1: expected true or false"),
        ({"lora_on_global_view": True, "views": "tiles"}, "needs a global view, and views is 'tiles'"),
    ],
)
def test_value_that_a_field_cannot_have_raises(fields, message):
    with pytest.raises(ValueError, match=message):
        MonkeyConfig(grids=[[2, 2]], **fields)


def test_most_tiles_are_saved_where_grids_are_automatic(tmp_path):
    MonkeyConfig(max_tiles=6).save_pretrained(tmp_path)
    assert MonkeyConfig.from_pretrained(tmp_path).max_tiles == 6
    assert "max_tiles" not in MonkeyConfig(grids=[[2, 2]]).to_json_string()


def test_lora_of_the_global_view_is_saved_where_there_is_one(tmp_path):
    MonkeyConfig(grids=[[2, 2]], lora_on_global_view=True).save_pretrained(tmp_path)
    assert MonkeyConfig.from_pretrained(tmp_path).lora_count == 5
    assert "lora_on_global_view" not in MonkeyConfig(grids=[[2, 2]]).to_json_string()


def test_one_view_may_have_a_lora():
    config = MonkeyConfig(views="global", lora_on_global_view=True)
    assert (config.lora_count, config.tile_lora_count) == (1, 0)


@pytest.mark.parametrize(
    "build, message",
    [
        (
            lambda: MonkeyConfig(tile_sice=56, grids=[[2, 2]]),
            "MonkeyConfig has no field 'tile_sice': .* tile_size",
        ),
        (lambda: MonkeyConfig(grid=[[2, 2]], lora_mode="none"), "no field 'grid': did you mean grids"),
        (lambda: MonkeyVisionConfig(patchsize=14), "no field 'patchsize': did you mean patch_size"),
        (lambda: MonkeyResamplerConfig(querries=64), "no field 'querries': did you mean queries"),
    ],
)
def test_misspelled_field_raises(build, message):
    with pytest.raises(TypeError, match=message):
        build()


def test_field_of_another_version_is_kept():
    config = MonkeyConfig(grids=[[2, 2]], model_type="monkey", architectures=["x"], later_addition=3)
    assert config.later_addition == 3
