import pytest
import torch

from monkeylib.experiments.lora_effect import banks, influence
from monkeylib.model.vision import VisionTransformer
from monkeylib.profiles import build_config, load


def encoder(mode: str) -> VisionTransformer:
    torch.manual_seed(0)
    recipe = load("smoke")
    adapters = recipe.lora.model_copy(update={"mode": mode})
    return VisionTransformer(build_config(recipe.model_copy(update={"lora": adapters}))).eval()


def test_an_adapter_changes_the_views_that_meet_it_and_nothing_else():
    vision = encoder("per_tile")
    index = [2, 0, -1, 3, 0]
    change = influence(vision, torch.randn(5, 3, 56, 56), index)
    assert change.shape == (4, 5)
    assert torch.equal(change > 0, torch.arange(4)[:, None] == torch.tensor(index))


def test_the_encoder_is_left_as_it_was():
    vision = encoder("shared")
    with torch.no_grad():
        for bank in banks(vision):
            bank.lora_B.normal_()
    before = {name: tensor.clone() for name, tensor in vision.state_dict().items()}
    first = influence(vision, torch.randn(2, 3, 56, 56), [0, -1], seed=1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in vision.state_dict().items())
    assert first[0, 0] > 0 and first[0, 1] == 0


def test_the_seed_decides():
    vision, views, index = encoder("per_tile"), torch.randn(1, 3, 56, 56), [1]
    first, again, other = (influence(vision, views, index, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_three_stacks_in_each_block():
    assert len(banks(encoder("per_tile"))) == 3 * load("smoke").vision.layers
    assert banks(encoder("none")) == []


def test_an_encoder_without_adapters_is_refused():
    with pytest.raises(ValueError, match="no adapters.*per_tile"):
        influence(encoder("full"), torch.randn(1, 3, 56, 56), [-1])
