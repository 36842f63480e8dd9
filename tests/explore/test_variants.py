"""Ways to see an image."""

import pytest
import torch

from monkeylib.explore import variants
from monkeylib.explore.variants import ONE_VIEW, TILES, TILES_WITHOUT_LORA, begin_session, encode
from monkeylib.tiling import Grid


def test_tiles_are_the_models_own_way(tiled_monkey, image):
    answer = begin_session(tiled_monkey, [image], TILES).answer("x", max_new_tokens=4)
    assert answer.token_ids == tiled_monkey.answer(image, "x", max_new_tokens=4).token_ids


def test_without_lora_only_the_tiles_change_and_only_for_that_time(tiled_monkey, image):
    (with_lora,) = encode(tiled_monkey, [image], TILES)
    (without,) = encode(tiled_monkey, [image], TILES_WITHOUT_LORA)
    (again,) = encode(tiled_monkey, [image], TILES)

    changes = (with_lora.visual_tokens - without.visual_tokens).abs().amax((1, 2))
    assert (changes[:-1] > 1e-4).all(), "each tile has a LoRA"
    assert changes[-1] < 1e-6, "the global view has none"
    assert torch.equal(with_lora.visual_tokens, again.visual_tokens)


def test_without_lora_any_grid_of_tiles_can_be_seen(tiled_monkey, image):
    (encoded,) = encode(tiled_monkey, [image], TILES_WITHOUT_LORA, grid="3x3")
    assert encoded.grid == Grid(3, 3) and len(encoded.visual_tokens) == 10
    with pytest.raises(ValueError, match="grid 2x2"):
        encode(tiled_monkey, [image], TILES, grid="3x3")


def test_one_view_is_the_global_view(tiled_monkey, image):
    (encoded,) = encode(tiled_monkey, [image], ONE_VIEW, grid="2x2")
    assert encoded.grid == Grid(0, 0) and len(encoded.visual_tokens) == 1
    (tiles,) = encode(tiled_monkey, [image], TILES)
    assert encoded.visual_tokens.shape[1:] == tiles.visual_tokens.shape[1:]


def test_variants_of_models(tiled_monkey, monkey):
    assert variants.variants_of(tiled_monkey) == [ONE_VIEW, TILES_WITHOUT_LORA, TILES]
    monkey.model.config.grids = []
    assert variants.variants_of(monkey) == [ONE_VIEW]
    with pytest.raises(ValueError, match="no way to see an image called 'tile'"):
        variants.get_variant("tile")
