"""The released Monkey layout of weights -> ours.

The release keeps one module per adapter; ours are stacked by tile position. Its Qwen-7B is, up to 2,048
tokens, the library's
Qwen2: `w2` is the gate, `w1` the up projection, and `c_attn` holds query, key and value.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

from monkeylib.model import MonkeyConfig, MonkeyResamplerConfig, MonkeyVisionConfig, QwenConfig

VISUAL_PREFIX = "transformer.visual."

# Released name (a regular expression) -> our name, for tensors that are taken as they are.
_RENAMED = {
    r"positional_embedding": r"vision.positions",
    r"conv1\.weight": r"vision.patch_embedding.weight",
    r"ln_pre\.(\w+)": r"vision.ln_pre.\1",
    r"transformer\.resblocks\.(\d+)\.(ln_[12])\.(\w+)": r"vision.blocks.\1.\2.\3",
    r"transformer\.resblocks\.(\d+)\.attn\.in_proj\.(\w+)": r"vision.blocks.\1.attention.qkv.\2",
    r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(\w+)": r"vision.blocks.\1.attention.out.\2",
    r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(\w+)": r"vision.blocks.\1.fc.\2",
    r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(\w+)": r"vision.blocks.\1.proj.\2",
    r"attn_pool\.pos_embed": r"resampler.positions",
    r"attn_pool\.query": r"resampler.query",
    r"attn_pool\.(kv_proj|ln_q|ln_kv)\.(\w+)": r"resampler.\1.\2",
    r"attn_pool\.attn\.in_proj_(\w+)": r"resampler.qkv.\1",
    r"attn_pool\.attn\.out_proj\.(\w+)": r"resampler.out.\1",
    r"ln_post\.(\w+)": r"resampler.ln_post.\1",
    r"proj": r"resampler.proj.weight",
}
_ADAPTER = re.compile(
    r"transformer\.resblocks\.(\d+)\.(attn\.in_proj|attn\.out_proj|mlp)_lora\.(\d+)\.(lora_scale|lora_[ab]\.weight)"
)
_BANKS = {
    "attn.in_proj": "attention.qkv_adapter",
    "attn.out_proj": "attention.out_adapter",
    "mlp": "mlp_adapter",
}
_ADAPTER_PARTS = {"lora_scale": "scale", "lora_a.weight": "a", "lora_b.weight": "b"}
_LANGUAGE = {
    r"transformer\.wte\.weight": r"model.embed_tokens.weight",
    r"transformer\.ln_f\.weight": r"model.norm.weight",
    r"lm_head\.weight": r"lm_head.weight",
    r"transformer\.h\.(\d+)\.ln_1\.weight": r"model.layers.\1.input_layernorm.weight",
    r"transformer\.h\.(\d+)\.ln_2\.weight": r"model.layers.\1.post_attention_layernorm.weight",
    r"transformer\.h\.(\d+)\.attn\.c_proj\.weight": r"model.layers.\1.self_attn.o_proj.weight",
    r"transformer\.h\.(\d+)\.mlp\.w1\.weight": r"model.layers.\1.mlp.up_proj.weight",
    r"transformer\.h\.(\d+)\.mlp\.w2\.weight": r"model.layers.\1.mlp.gate_proj.weight",
    r"transformer\.h\.(\d+)\.mlp\.c_proj\.weight": r"model.layers.\1.mlp.down_proj.weight",
}
_FUSED_QKV = re.compile(r"transformer\.h\.(\d+)\.attn\.c_attn\.(weight|bias)")
_LANGUAGE_PREFIX = "language_model."


def from_released(released: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our state dict of a released one (keys of the whole model, or of its language model alone).

    Raises:
        ValueError: a key that no released Monkey or Qwen-VL checkpoint has, or tile positions without an
            adapter.
    """
    ours: dict[str, torch.Tensor] = {}
    banks: dict[str, dict[int, torch.Tensor]] = {}
    for key, tensor in released.items():
        if key.startswith(VISUAL_PREFIX):
            name = key.removeprefix(VISUAL_PREFIX)
            if match := _ADAPTER.fullmatch(name):
                block, place, tile, part = match.groups()
                bank = f"vision.blocks.{block}.{_BANKS[place]}.{_ADAPTER_PARTS[part]}"
                banks.setdefault(bank, {})[int(tile)] = tensor
            else:
                # The release multiplies by `proj` from the right; a linear layer keeps the transpose.
                ours[_rename(name, _RENAMED)] = tensor.T.contiguous() if name == "proj" else tensor
        elif match := _FUSED_QKV.fullmatch(key):
            layer, part = match.groups()
            for name, piece in zip("qkv", tensor.chunk(3), strict=True):
                ours[f"{_LANGUAGE_PREFIX}model.layers.{layer}.self_attn.{name}_proj.{part}"] = (
                    piece.contiguous()
                )
        else:
            ours[_LANGUAGE_PREFIX + _rename(key, _LANGUAGE)] = tensor
    return ours | {name: _stack(name, tiles) for name, tiles in banks.items()}


def _rename(name: str, table: Mapping[str, str]) -> str:
    for pattern, ours in table.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    raise ValueError(
        f"{name!r} is no tensor of a released Monkey or Qwen-VL checkpoint: check which model the file holds"
    )


def _stack(name: str, tiles: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """Adapters of the tile positions, stacked in their order; scales become one number per tile."""
    if sorted(tiles) != list(range(len(tiles))):
        raise ValueError(
            f"{name} has adapters for the tiles {sorted(tiles)}: a checkpoint has them for 0, 1, 2, ..."
        )
    stacked = torch.stack([tiles[tile] for tile in range(len(tiles))])
    return stacked.flatten() if name.endswith(".scale") else stacked


def config_from_released(language: Mapping[str, Any], visual: Mapping[str, Any]) -> MonkeyConfig:
    """Our configuration of a released one: its language model's fields, and those of its `visual` section.

    What the release writes into its code instead is written here: tiles of 448 pixels, a position table of 16
    x 16, heads of
    128 in the resampler, and the ids of `</img>` and `<imgpad>` next to that of `<img>`.
    """
    side = visual["image_size"] // 448
    start = visual["image_start_id"]
    return MonkeyConfig(
        vision_config=MonkeyVisionConfig(
            tile_size=448,
            patch_size=visual["patch_size"],
            width=visual["width"],
            layers=visual["layers"],
            heads=visual["heads"],
            mlp_width=int(visual["width"] * visual["mlp_ratio"]),
            position_grid=16,
        ),
        resampler_config=MonkeyResamplerConfig(
            queries=visual.get("n_queries", 256), heads=visual["output_dim"] // 128
        ),
        text_config=QwenConfig(
            vocab_size=language["vocab_size"],
            hidden_size=language["hidden_size"],
            intermediate_size=language["intermediate_size"] // 2,  # the release counts gate and up together
            num_hidden_layers=language["num_hidden_layers"],
            num_attention_heads=language["num_attention_heads"],
            num_key_value_heads=language["num_attention_heads"],
            max_position_embeddings=language["max_position_embeddings"],
            rms_norm_eps=language["layer_norm_epsilon"],
            rope_parameters={"rope_type": "default", "rope_theta": float(language["rotary_emb_base"])},
            tie_word_embeddings=False,
            trained_length=language["seq_length"],
            dynamic_ntk=language["use_dynamic_ntk"],
            log_n=language["use_logn_attn"],
        ),
        image_start_id=start,
        image_end_id=start + 1,
        image_token_id=start + 2,
        grids=[[side, side]],
        adapter_mode="per_tile" if visual["lora_repeat_num"] else "none",
    )
