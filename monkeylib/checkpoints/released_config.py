"""Convert the `config.json` of a released Monkey or Qwen-VL checkpoint to monkeylib's configuration and back.

The released file has the language model's fields at the top level and the ViT's in a section `visual`. Some
values it leaves to its code are written here: tiles of 448 pixels, a position embedding of 16 x 16 patches,
resampler heads of width 128, and the ids of `</img>` and `<imgpad>` next to that of `<img>`.
"""

import math
from collections.abc import Mapping
from typing import Any

from monkeylib.model import MonkeyConfig, MonkeyResamplerConfig, MonkeyVisionConfig, QwenConfig
from monkeylib.model.limits import check_grids, check_sizes
from monkeylib.tiling import Grid

TILE_SIZE = 448
POSITION_GRID = 16
RESAMPLER_HEAD_WIDTH = 128
# How many ids `<img>` comes after `<|endoftext|>` in Qwen's vocabulary.
_IMAGE_START_OFFSET = 214
# The grid that Qwen-VL, which has no tiles, is given by default.
_BASE_GRID = Grid(2, 2)

# Field of a `config.json` for grids that are no square. The released code keeps and ignores it.
_GRID_FIELD = "grid"

# Fields that must survive the way to the released layout and back, or it cannot hold the model.
_COMPARED_FIELDS = {
    "vision_config": (
        "tile_size",
        "width",
        "layers",
        "heads",
        "mlp_width",
        "position_grid",
        "layer_norm_eps",
    ),
    "resampler_config": ("queries", "pooling", "heads", "kv_proj"),
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


def is_base_model(released: Mapping[str, Any]) -> bool:
    """Tell whether a released configuration is that of Qwen-VL, which has no LoRA yet."""
    return "lora_repeat_num" not in released["visual"]


def config_from_released(released: Mapping[str, Any], grid: Grid | None = None) -> MonkeyConfig:
    """Convert a released configuration.

    Args:
        released: content of `config.json`.
        grid: rows and columns of tiles; by default those of the field `grid`, which monkeylib writes for a
            grid that is no square, else the square that `image_size` gives, and 2x2 for Qwen-VL, whose LoRA
            is then fresh.

    Raises:
        ValueError: a field is missing or absurd, or there are not as many LoRAs as the grid has tiles.
    """
    check_sizes(released)
    try:
        visual = released["visual"]
        rows, cols = grid or _default_grid(released)

        # 0 LoRAs are a model that was trained without them.
        lora_count = visual.get("lora_repeat_num", rows * cols)
        if lora_count not in (0, rows * cols):
            raise ValueError(
                f"the checkpoint has LoRA for {lora_count} tiles (lora_repeat_num of its config.json), the "
                f"grid {rows}x{cols} has {rows * cols}: name the grid that it was trained for"
            )

        image_start_id = visual["image_start_id"]
        return MonkeyConfig(
            vision_config=_vision_config(visual),
            resampler_config=MonkeyResamplerConfig(
                queries=visual.get("n_queries", 256),
                heads=visual["output_dim"] // RESAMPLER_HEAD_WIDTH,
                kv_proj=visual["output_dim"] != visual["width"],
            ),
            text_config=_text_config(released, image_start_id),
            image_start_id=image_start_id,
            image_end_id=image_start_id + 1,
            image_token_id=image_start_id + 2,
            grids=[[rows, cols]],
            lora_mode="per_tile" if lora_count else "none",
        )
    except KeyError as error:
        raise ValueError(
            f"the config.json lacks {error}: expected that of a released Monkey or Qwen-VL checkpoint, with "
            "the language model's fields and a section `visual`"
        ) from error


def _default_grid(released: Mapping[str, Any]) -> Grid:
    if _GRID_FIELD in released:
        check_grids([released[_GRID_FIELD]], _GRID_FIELD)
        return Grid(*released[_GRID_FIELD])

    tiles_per_side = released["visual"]["image_size"] // TILE_SIZE
    if is_base_model(released) and tiles_per_side < 2:
        return _BASE_GRID
    return Grid(tiles_per_side, tiles_per_side)


def _vision_config(visual: Mapping[str, Any]) -> MonkeyVisionConfig:
    for name in ("mlp_ratio", "image_start_id"):
        if not isinstance(visual[name], int | float):
            raise ValueError(f"visual.{name} is {visual[name]!r}: expected a number")

    return MonkeyVisionConfig(
        tile_size=TILE_SIZE,
        patch_size=visual["patch_size"],
        width=visual["width"],
        layers=visual["layers"],
        heads=visual["heads"],
        mlp_width=int(visual["width"] * visual["mlp_ratio"]),
        position_grid=POSITION_GRID,
    )


def _text_config(released: Mapping[str, Any], image_start_id: int) -> QwenConfig:
    return QwenConfig(
        vocab_size=released["vocab_size"],
        hidden_size=released["hidden_size"],
        # The released field counts gate and up projection together.
        intermediate_size=released["intermediate_size"] // 2,
        num_hidden_layers=released["num_hidden_layers"],
        num_attention_heads=released["num_attention_heads"],
        num_key_value_heads=released["num_attention_heads"],
        max_position_embeddings=released["max_position_embeddings"],
        rms_norm_eps=released["layer_norm_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": float(released["rotary_emb_base"])},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=image_start_id - _IMAGE_START_OFFSET,
        trained_length=released.get("seq_length", 2048),
        dynamic_ntk=released.get("use_dynamic_ntk", True),
        log_n=released.get("use_logn_attn", True),
    )


def config_to_released(config: MonkeyConfig, original: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert a configuration to a released `config.json`.

    Args:
        config: monkeylib's.
        original: the released `config.json` that it was made from. Its fields are kept, but for the number of
            LoRAs and the image's size.

    Raises:
        ValueError: the released layout cannot hold this model.
    """
    if config.max_tiles is not None:
        raise ValueError(
            "the released layout has one grid for all images, this model gives each a grid of up to "
            f"{config.max_tiles} tiles by its shape: save it with save_pretrained"
        )

    if config.lora_on_global_view:
        raise ValueError(
            "the released layout has LoRA for tiles alone, this model has one for the global view too: save "
            "it with save_pretrained"
        )

    if not isinstance(config.text_config, QwenConfig):
        raise ValueError(
            "the released layout holds a language model of Qwen-7B's kind, "
            f"got {config.text_config.model_type!r}"
        )

    query_rows, query_cols = config.resampler_config.query_grid
    if query_rows != query_cols:
        raise ValueError(
            "the released layout has queries on a square grid, those of this model lie on one of "
            f"{query_rows}x{query_cols}: save it with save_pretrained"
        )

    # The layout states a count of LoRAs and a square image. Tiles are numbered row by row in both layouts.
    rows, cols = config.grids[0] if config.grids else (0, 0)
    if config.lora_count not in (0, rows * cols):
        raise ValueError(
            "the released layout has a LoRA for each tile of one grid, this model has "
            f"{config.lora_count} for the grids {config.grids}: save it with save_pretrained"
        )

    # Fields that monkeylib does not know are kept from the original file.
    visual = dict(original["visual"] if original else _released_visual(config))
    if rows == cols or not original:
        # The released code knows square images only; a copy changed for another grid left the field alone.
        visual["image_size"] = max(rows, cols) * TILE_SIZE

    visual["lora_repeat_num"] = config.lora_count

    released = {**(original or _released_text(config)), "visual": visual}
    if rows != cols and not original:
        # A folder that was read with a named grid comes back as it was, and is read so again.
        released[_GRID_FIELD] = [rows, cols]

    # Reading it back is the simplest test of what the layout can hold.
    _check_round_trip(config, config_from_released(released, Grid(rows, cols) if original else None))
    return released


def _check_round_trip(config: MonkeyConfig, converted_back: MonkeyConfig) -> None:
    for section, fields in _COMPARED_FIELDS.items():
        before = getattr(config, section) if section else config
        after = getattr(converted_back, section) if section else converted_back
        for field in fields:
            if getattr(before, field) != getattr(after, field):
                raise ValueError(
                    f"the released layout cannot hold this model: its {field} is {getattr(before, field)}, "
                    f"the layout has {getattr(after, field)} there; save it with save_pretrained"
                )


def _released_visual(config: MonkeyConfig) -> dict[str, Any]:
    vision = config.vision_config
    # The released code multiplies and cuts off: rounded up, the ratio gives the same width again.
    mlp_ratio = math.ceil(vision.mlp_width / vision.width * 1e4) / 1e4
    return {
        "patch_size": vision.patch_size,
        "width": vision.width,
        "layers": vision.layers,
        "heads": vision.heads,
        "mlp_ratio": mlp_ratio,
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
