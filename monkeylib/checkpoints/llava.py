"""LLaVA-1.5 as the Hugging Face hub has it, loaded as Monkey: the paper's second setting.

LLaVA-1.5 is CLIP ViT-L/14 at 336 pixels, a projector of two layers, and Vicuna. It reads the output of the
second-to-last block without class token, so the last block is left out. transformers itself reads the files,
whichever of its naming schemes they follow.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from monkeylib.checkpoints.loading import build_with_weights
from monkeylib.checkpoints.pretrained import explain_missing
from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration, MonkeyProjectorConfig

# Prefixes of the names of tensors that LLaVA-1.5 does not have.
FRESH = ("vision.lora.",)

# Beginning of a name in transformers -> in monkeylib
_PREFIXES = {
    "model.vision_tower.": "vision.backbone.",
    "model.multi_modal_projector.": "resampler.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}


def load_llava(path: str | Path, **fields: Any) -> MonkeyForConditionalGeneration:
    """Load a LLaVA-1.5 from a local folder or a hub as Monkey, with fresh LoRA.

    Args:
        path: folder, or name on the hub.
        fields: as in `config_from_llava`.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: as `config_from_llava`.
    """
    with explain_missing(str(path)):
        config = config_from_llava(LlavaConfig.from_pretrained(path), **fields)
    return build_with_weights(config, read_llava_weights(path), FRESH)


def config_from_llava(llava: LlavaConfig, **fields: Any) -> MonkeyConfig:
    """Convert the configuration of a LLaVA-1.5.

    Args:
        llava: configuration in transformers.
        fields: of `MonkeyConfig`, such as `grids=[[2, 2]]`, `tile_size=224` (the ViT's position embedding is
            then interpolated), `views="global"`, `lora_mode="none"`.

    Raises:
        ValueError: another vision encoder than CLIP, or features that LLaVA-1.5 does not take.
    """
    vision = llava.vision_config.to_dict() | {"num_hidden_layers": count_blocks(llava)}
    return MonkeyConfig(
        vision_config=vision,
        resampler_config=MonkeyProjectorConfig(hidden_act=llava.projector_hidden_act),
        text_config=llava.text_config.to_dict(),
        image_token_id=llava.image_token_id,
        image_start_id=None,
        image_end_id=None,
        **fields,
    )


def count_blocks(llava: LlavaConfig) -> int:
    """Return how many blocks of the ViT come before LLaVA's features.

    Raises:
        ValueError: as `config_from_llava`.
    """
    layer, kind = llava.vision_feature_layer, llava.vision_config.model_type
    strategy = llava.vision_feature_select_strategy

    is_supported = isinstance(layer, int) and strategy == "default" and llava.multimodal_projector_bias
    if kind != "clip_vision_model" or not is_supported:
        raise ValueError(
            "only LLaVA-1.5 is supported: a clip_vision_model, features of one layer, the select strategy "
            f"'default' and a projector with biases, got {kind}, layer {layer}, {strategy!r} and "
            f"multimodal_projector_bias={llava.multimodal_projector_bias}"
        )

    # Layer 0 is what enters the first block, -1 what leaves the last one.
    return layer if layer >= 0 else llava.vision_config.num_hidden_layers + 1 + layer


def read_llava_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a LLaVA-1.5 by monkeylib's names, in the precision of the file.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: as `config_from_llava`.
    """
    with explain_missing(str(path)):
        llava = LlavaForConditionalGeneration.from_pretrained(path, dtype="auto")

    # Blocks after the layer that LLaVA reads its features from.
    first_unused = count_blocks(llava.config)
    blocks = llava.config.vision_config.num_hidden_layers
    unused = tuple(f"model.vision_tower.encoder.layers.{block}." for block in range(first_unused, blocks))

    state = {}
    for llava_name, tensor in llava.state_dict().items():
        if unused and llava_name.startswith(unused):
            continue
        # Only the beginning of a name differs: `model.vision_tower.x` is `vision.backbone.x`.
        for llava_prefix, prefix in _PREFIXES.items():
            if llava_name.startswith(llava_prefix):
                state[prefix + llava_name.removeprefix(llava_prefix)] = tensor

    return state
