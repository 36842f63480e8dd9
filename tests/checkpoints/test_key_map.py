"""The key map: the released keys, their shapes and their places in the model."""

import torch

from monkeylib.checkpoints.key_map import build_key_map
from monkeylib.checkpoints.loading import load_checkpoint
from monkeylib.checkpoints.released_config import config_from_released
from tests.support.released_files import TRUE_SETTINGS, same, to_released_layout, write


def all_released_keys():
    """Return the 2,581 keys of the released Monkey, listed independently of the key map."""
    tower, pool = "transformer.visual.", "transformer.visual.attn_pool."
    keys = {f"{tower}{name}" for name in ("positional_embedding", "proj", "conv1.weight")}
    keys |= {f"{pool}{name}" for name in ("pos_embed", "query", "kv_proj.weight")}
    keys |= {f"{pool}attn.{name}" for name in ("in_proj_weight", "in_proj_bias")}
    both = [f"{tower}ln_pre", f"{tower}ln_post", f"{pool}ln_q", f"{pool}ln_kv", f"{pool}attn.out_proj"]
    for i in range(48):
        block = f"{tower}transformer.resblocks.{i}."
        names = ("ln_1", "ln_2", "attn.in_proj", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
        both += [block + name for name in names]
        for place in ("attn.in_proj_lora", "attn.out_proj_lora", "mlp_lora"):
            for tile in range(4):
                parts = ("lora_scale", "lora_a.weight", "lora_b.weight")
                keys |= {f"{block}{place}.{tile}.{part}" for part in parts}

    keys |= {f"{name}.{part}" for name in both for part in ("weight", "bias")}
    keys |= {"transformer.wte.weight", "transformer.ln_f.weight", "lm_head.weight"}
    names = ("ln_1.weight", "ln_2.weight", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight")
    names += ("mlp.w1.weight", "mlp.w2.weight", "mlp.c_proj.weight")
    return keys | {f"transformer.h.{i}.{name}" for i in range(32) for name in names}


def test_complete_key_set_in_three_shards_loads(tmp_path):
    shapes = {entry.released_key: entry.shape for entry in build_key_map(config_from_released(TRUE_SETTINGS))}
    assert shapes.keys() == all_released_keys() and len(shapes) == 2581

    generator = torch.Generator().manual_seed(0)
    weights = {key: torch.randn(shape, generator=generator).bfloat16() for key, shape in shapes.items()}
    model = load_checkpoint(write(tmp_path / "true", TRUE_SETTINGS, weights))

    assert same(to_released_layout(model.state_dict(), model.config), weights)
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_w2_is_the_gate_and_the_fused_attention_is_split():
    # monkeylib's name -> entry of the key map
    places = {entry.name: entry for entry in build_key_map(config_from_released(TRUE_SETTINGS))}
    layer = "language_model.model.layers.3"
    assert places[f"{layer}.mlp.gate_proj.weight"].released_key == "transformer.h.3.mlp.w2.weight"
    key = places[f"{layer}.self_attn.k_proj.bias"]
    assert (key.released_key, key.rows) == ("transformer.h.3.attn.c_attn.bias", (128, 256))
