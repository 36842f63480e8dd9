"""Effect of a single tile position's LoRA."""

import pytest
import torch

from monkeylib.experiments.lora_effect import describe_loras, lora_layers, measure_lora_effect
from monkeylib.model.vision import VisionTransformer
from monkeylib.profiles import build_config, load_profile


def _encoder(mode: str) -> VisionTransformer:
    torch.manual_seed(0)
    profile = load_profile("smoke")
    lora = profile.lora.model_copy(update={"mode": mode})
    return VisionTransformer(build_config(profile.model_copy(update={"lora": lora}))).eval()


def test_lora_changes_the_views_of_its_position_and_no_others():
    index = [2, 0, -1, 3, 0]
    changes = measure_lora_effect(_encoder("per_tile"), torch.randn(5, 3, 56, 56), index)

    assert changes.shape == (4, 5)

    # Row p: exactly the views whose index is p.
    assert torch.equal(changes > 0, torch.arange(4)[:, None] == torch.tensor(index))


def test_weights_are_restored():
    vision = _encoder("shared")
    with torch.no_grad():
        for layer in lora_layers(vision):
            layer.lora_B.normal_()

    before = {name: tensor.clone() for name, tensor in vision.state_dict().items()}

    # One shared LoRA is one position, which the global view (-1) does not use.
    changes = measure_lora_effect(vision, torch.randn(2, 3, 56, 56), [0, -1], seed=1)

    assert all(torch.equal(tensor, before[name]) for name, tensor in vision.state_dict().items())
    assert changes[0, 0] > 0 and changes[0, 1] == 0


def test_seed_determines_the_result():
    vision = _encoder("per_tile")
    views = torch.randn(1, 3, 56, 56)
    first, again, other = (measure_lora_effect(vision, views, [1], seed) for seed in (0, 0, 1))

    assert torch.equal(first, again) and not torch.equal(first, other)


def test_every_block_has_three_lora_layers():
    assert len(lora_layers(_encoder("per_tile"))) == 3 * load_profile("smoke").vision.layers
    assert lora_layers(_encoder("none")) == []


def test_encoder_without_lora_raises():
    with pytest.raises(ValueError, match="no LoRA.*per_tile"):
        measure_lora_effect(_encoder("full"), torch.randn(1, 3, 56, 56), [-1])


def test_trained_loras_are_described_by_norm_and_similarity():
    vision = _encoder("per_tile")
    layers = lora_layers(vision.blocks[1])
    with torch.no_grad():
        for layer in layers:
            # Tiles 0 and 1 add opposite updates, that of tile 1 twice as large; the others add none.
            layer.lora_A[1] = layer.lora_A[0]
            layer.lora_B[0] = 1
            layer.lora_B[1] = -1
            layer.scaling[1] = 2
    rows = {(row["block"], row["tile"], row["other"]): row for row in describe_loras(vision)}

    assert len(rows) == 2 * 4 * 4
    expected = (
        sum(float((layer.lora_B[0] @ layer.lora_A[0]).detach().square().sum()) for layer in layers) ** 0.5
    )
    assert rows[1, 0, 1]["norm"] == pytest.approx(expected, rel=1e-5)
    assert rows[1, 1, 0]["norm"] == pytest.approx(2 * expected, rel=1e-5)
    assert rows[1, 0, 1]["cosine"] == pytest.approx(-1) and rows[1, 0, 0]["cosine"] == pytest.approx(1)
    assert rows[1, 2, 3]["cosine"] == 0 and rows[0, 0, 1]["norm"] == 0
    assert describe_loras(_encoder("none")) == []
