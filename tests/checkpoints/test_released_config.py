"""Configurations: from the released one, and back."""

import pytest

from monkeylib.checkpoints.released_config import config_from_released, config_to_released
from monkeylib.model import MonkeyResamplerConfig
from tests.support.released_files import TRUE_SETTINGS, golden_settings


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"lora_mode": "shared"}, "each tile of one grid, this model has 1 for the grids"),
        ({"grids": [[2, 2], [4, 1]]}, "its grids is"),
        ({"views": "tiles"}, "its views is tiles, the layout has tiles[+]global"),
        ({"mlp_rank": 8}, "its mlp_rank is 8, the layout has 32"),
        ({"resampler_config": MonkeyResamplerConfig(queries=320)}, "square grid, .* lie on one of 16x20"),
        ({"resampler_config": MonkeyResamplerConfig(pooling=2)}, "its pooling is 2, the layout has 1"),
        ({"attention_rank": 0}, "its attention_rank is 0, the layout has 16"),
        ({"lora_on_global_view": True}, "LoRA for tiles alone, this model has one for the global view too"),
    ],
)
def test_model_that_the_released_layout_cannot_hold_raises(changes, complaint):
    config = config_from_released(TRUE_SETTINGS)
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(ValueError, match=complaint):
        config_to_released(config, TRUE_SETTINGS)


def test_configuration_converts_back_to_the_released_one():
    config = config_from_released(golden_settings())
    assert config_to_released(config, golden_settings()) == golden_settings()
    generated = config_to_released(config)
    again = config_from_released(generated)
    assert again.to_dict() == config.to_dict()
