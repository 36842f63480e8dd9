import pytest
import torch

from monkeylib.checkpoints import from_released

BLOCK = "transformer.visual.transformer.resblocks.7."


def test_adapters_are_stacked_by_tile_whatever_their_order():
    released = {f"{BLOCK}mlp_lora.{tile}.lora_scale": torch.tensor([float(tile)]) for tile in (2, 0, 1)}
    released |= {
        f"{BLOCK}mlp_lora.{tile}.lora_a.weight": torch.full((4, 8), float(tile)) for tile in (2, 0, 1)
    }
    ours = from_released(released)
    assert ours["vision.blocks.7.mlp_adapter.scale"].tolist() == [0, 1, 2]
    assert ours["vision.blocks.7.mlp_adapter.a"].shape == (3, 4, 8)
    assert ours["vision.blocks.7.mlp_adapter.a"][:, 0, 0].tolist() == [0, 1, 2]


def test_the_fused_attention_of_the_language_model_is_split():
    weight = torch.arange(12.0).view(12, 1).expand(12, 4)
    ours = from_released({"transformer.h.3.attn.c_attn.weight": weight})
    prefix = "language_model.model.layers.3.self_attn."
    assert {name: tensor[0, 0].item() for name, tensor in ours.items()} == {
        f"{prefix}q_proj.weight": 0,
        f"{prefix}k_proj.weight": 4,
        f"{prefix}v_proj.weight": 8,
    }


def test_w2_is_the_gate():
    ours = from_released({"transformer.h.0.mlp.w2.weight": torch.ones(1)})
    assert list(ours) == ["language_model.model.layers.0.mlp.gate_proj.weight"]


@pytest.mark.parametrize("name", ["transformer.h.0.attn.rotary", "transformer.visual.class_embedding", "x"])
def test_an_unknown_tensor_is_named(name):
    with pytest.raises(ValueError, match="no tensor of a released"):
        from_released({name: torch.zeros(1)})


def test_a_missing_tile_is_named():
    tensors = {f"{BLOCK}attn.in_proj_lora.{tile}.lora_scale": torch.ones(1) for tile in (0, 2)}
    with pytest.raises(ValueError, match=r"tiles \[0, 2\]"):
        from_released(tensors)
