"""The `config.json` of a released Monkey or Qwen-VL checkpoint <-> our configuration.

The release writes the language model's fields at the top level, the vision tower's in a section `visual`.
What it writes into its code instead is written here: tiles of 448 pixels, a position table of 16 x 16, heads
of 128 in the resampler, and the ids of `</img>` and `<imgpad>` next to that of `<img>`.
"""

import math
from collections.abc import Mapping
from typing import Any

from monkeylib.model import MonkeyConfig, MonkeyResamplerConfig, MonkeyVisionConfig, QwenConfig
from monkeylib.tiling import Grid

TILE = 448
HEAD_WIDTH = 128
# How far `<img>` stands behind `<|endoftext|>` in Qwen's vocabulary.
_IMAGE_START = 214
_BASE_GRID = Grid(2, 2)
# What has to come out again for the released layout to hold a model.
_COMPARED = {
    "vision_config": (
        "tile_size",
        "width",
        "layers",
        "heads",
        "mlp_width",
        "position_grid",
        "layer_norm_eps",
    ),
    "resampler_config": ("queries", "heads"),
    "text_config": (
        "hidden_size",
        "intermediate_size",
        "num_key_value_heads",
        "tie_word_embeddings",
        "trained_length",
        "dynamic_ntk",
        "log_n",
    ),
    "": (
        "image_end_id",
        "image_token_id",
        "grids",
        "views",
        "attention_rank",
        "mlp_rank",
        "mlp_lora_input",
    ),
}


def is_base(released: Mapping[str, Any]) -> bool:
    """Whether it is the configuration of Qwen-VL, which has no adapters yet."""
    return "lora_repeat_num" not in released["visual"]


def config_from_released(released: Mapping[str, Any], grid: Grid | None = None) -> MonkeyConfig:
    """Our configuration of a released one.

    Args:
        released: the content of `config.json`.
        grid: rows and columns of tiles; by default the square that `image_size` gives, and 2x2 for Qwen-VL,
            whose adapters are then fresh.

    Raises:
        ValueError: a field is missing, or the adapters are not as many as the grid has tiles.
    """
    try:
        visual = released["visual"]
        side = visual["image_size"] // TILE
        rows, cols = grid or (_BASE_GRID if is_base(released) and side < 2 else Grid(side, side))
        adapters = visual.get("lora_repeat_num", rows * cols)
        if adapters not in (0, rows * cols):
            raise ValueError(
                f"the checkpoint has adapters for {adapters} tiles (lora_repeat_num of its config.json), the "
                f"grid {rows}x{cols} has {rows * cols}: name the grid that it was trained for"
            )
        start = visual["image_start_id"]
        return MonkeyConfig(
            vision_config=_vision(visual),
            resampler_config=MonkeyResamplerConfig(
                queries=visual.get("n_queries", 256), heads=visual["output_dim"] // HEAD_WIDTH
            ),
            text_config=_text(released, start),
            image_start_id=start,
            image_end_id=start + 1,
            image_token_id=start + 2,
            grids=[[rows, cols]],
            lora_mode="per_tile" if adapters else "none",
        )
    except KeyError as error:
        raise ValueError(
            f"the config.json lacks {error}: expected that of a released Monkey or Qwen-VL checkpoint, with "
            "the language model's fields and a section `visual`"
        ) from error


def _vision(visual: Mapping[str, Any]) -> MonkeyVisionConfig:
    return MonkeyVisionConfig(
        tile_size=TILE,
        patch_size=visual["patch_size"],
        width=visual["width"],
        layers=visual["layers"],
        heads=visual["heads"],
        mlp_width=int(visual["width"] * visual["mlp_ratio"]),
        position_grid=16,
    )


def _text(released: Mapping[str, Any], image_start_id: int) -> QwenConfig:
    """The language model's configuration; the release counts gate and up projection together."""
    return QwenConfig(
        vocab_size=released["vocab_size"],
        hidden_size=released["hidden_size"],
        intermediate_size=released["intermediate_size"] // 2,
        num_hidden_layers=released["num_hidden_layers"],
        num_attention_heads=released["num_attention_heads"],
        num_key_value_heads=released["num_attention_heads"],
        max_position_embeddings=released["max_position_embeddings"],
        rms_norm_eps=released["layer_norm_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": float(released["rotary_emb_base"])},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=image_start_id - _IMAGE_START,
        trained_length=released.get("seq_length", 2048),
        dynamic_ntk=released.get("use_dynamic_ntk", True),
        log_n=released.get("use_logn_attn", True),
    )


def released_config(config: MonkeyConfig, original: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The released `config.json` of our configuration.

    Args:
        config: ours.
        original: the `config.json` that it was made from, whose fields are kept but for the number of
            adapters and the image's size.

    Raises:
        ValueError: the released layout cannot hold this model.
    """
    if not isinstance(config.text_config, QwenConfig):
        raise ValueError(
            "the released layout holds a language model of Qwen-7B's kind, "
            f"got {config.text_config.model_type!r}"
        )
    rows, cols = config.grids[0] if config.grids else (0, 0)
    if config.lora_count not in (0, rows * cols):
        raise ValueError(
            "the released layout has an adapter for each tile of one grid, this model has "
            f"{config.lora_count} for the grids {config.grids}: save it with save_pretrained"
        )
    visual = dict(original["visual"] if original else _released_visual(config))
    if rows == cols or not original:  # the release knows no other size; who changed its code kept its field
        visual["image_size"] = rows * TILE
    visual["lora_repeat_num"] = config.lora_count
    released = {**(original or _released_text(config)), "visual": visual}
    again = config_from_released(released, Grid(rows, cols) if original else None)
    for part, names in _COMPARED.items():
        ours, theirs = (getattr(whole, part) if part else whole for whole in (config, again))
        for name in names:
            if getattr(ours, name) != getattr(theirs, name):
                raise ValueError(
                    f"the released layout cannot hold this model: its {name} is {getattr(ours, name)}, "
                    f"the layout has {getattr(theirs, name)} there; save it with save_pretrained"
                )
    return released


def _released_visual(config: MonkeyConfig) -> dict[str, Any]:
    vision = config.vision_config
    return {
        "patch_size": vision.patch_size,
        "width": vision.width,
        "layers": vision.layers,
        "heads": vision.heads,
        # The release multiplies and cuts off: rounded up, so that the width comes out again.
        "mlp_ratio": math.ceil(vision.mlp_width / vision.width * 1e4) / 1e4,
        "output_dim": config.text_config.hidden_size,
        "n_queries": config.resampler_config.queries,
        "image_start_id": config.image_start_id,
    }


def _released_text(config: MonkeyConfig) -> dict[str, Any]:
    text = config.text_config
    return {
        "architectures": ["MonkeyLMHeadModel"],
        "model_type": "monkey",
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "intermediate_size": 2 * text.intermediate_size,
        "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "kv_channels": text.hidden_size // text.num_attention_heads,
        "max_position_embeddings": text.max_position_embeddings,
        "layer_norm_epsilon": text.rms_norm_eps,
        "rotary_emb_base": text.rope_parameters["rope_theta"],
        "seq_length": text.trained_length,
        "use_dynamic_ntk": text.dynamic_ntk,
        "use_logn_attn": text.log_n,
        "no_bias": True,
        "tie_word_embeddings": False,
        "torch_dtype": str(config.dtype or "float32").removeprefix("torch."),
    }
