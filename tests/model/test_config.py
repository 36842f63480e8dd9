"""Configurations that no model can have."""

import pytest

from monkeylib.model import MonkeyConfig, MonkeyResamplerConfig, MonkeyVisionConfig


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
