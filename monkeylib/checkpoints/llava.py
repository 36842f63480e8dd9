"""LLaVA-1.5 as the Hugging Face hub has it, made into Monkey: the paper's second setting.

LLaVA-1.5 is CLIP ViT-L/14 at 336 pixels, a projector of two layers, and Vicuna. It reads the output of the
second-to-last block without class token, so the last block is left out. transformers itself reads the files,
whichever of its naming schemes they follow.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from monkeylib.checkpoints import pretrained
from monkeylib.checkpoints.loading import build_with_weights
from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration, MonkeyProjectorConfig

FRESH = ("vision.lora.",)
_PREFIXES = {
    "model.vision_tower.": "vision.backbone.",
    "model.multi_modal_projector.": "resampler.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}


def config_of(llava: LlavaConfig, **fields: Any) -> MonkeyConfig:
    """The configuration of Monkey on a LLaVA-1.5.

    Args:
        llava: its own configuration.
        fields: of `MonkeyConfig`, such as `grids=[[2, 2]]`, `tile_size=224` (the encoder's table of positions
            is then interpolated), `views="global"`, `lora_mode="none"`.

    Raises:
        ValueError: another vision encoder than CLIP, or features that LLaVA-1.5 does not take.
    """
    vision = llava.vision_config.to_dict() | {"num_hidden_layers": blocks_read(llava)}
    return MonkeyConfig(
        vision_config=vision,
        resampler_config=MonkeyProjectorConfig(hidden_act=llava.projector_hidden_act),
        text_config=llava.text_config.to_dict(),
        image_token_id=llava.image_token_id,
        image_start_id=None,
        image_end_id=None,
        **fields,
    )


def blocks_read(llava: LlavaConfig) -> int:
    """After how many blocks of the encoder LLaVA reads its features.

    Raises:
        ValueError: as `config_of`.
    """
    layer, kind = llava.vision_feature_layer, llava.vision_config.model_type
    strategy = llava.vision_feature_select_strategy
    known = isinstance(layer, int) and strategy == "default" and llava.multimodal_projector_bias
    if kind != "clip_vision_model" or not known:
        raise ValueError(
            "only LLaVA-1.5 is known: a clip_vision_model, features of one layer, the select strategy "
            f"'default' and a projector with biases, got {kind}, layer {layer}, {strategy!r} and "
            f"multimodal_projector_bias={llava.multimodal_projector_bias}"
        )
    return layer if layer >= 0 else llava.vision_config.num_hidden_layers + 1 + layer


def state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Our names -> the tensors of a LLaVA-1.5 in a local folder or on a hub, as they are stored.

    Raises:
        FileNotFoundError: it is not to be had.
        ValueError: as `config_of`.
    """
    with pretrained.explained(str(path)):
        llava = LlavaForConditionalGeneration.from_pretrained(path, dtype="auto")
    kept = blocks_read(llava.config)
    unread = tuple(
        f"model.vision_tower.encoder.layers.{block}."
        for block in range(kept, llava.config.vision_config.num_hidden_layers)
    )
    return {
        ours + name.removeprefix(theirs): tensor
        for name, tensor in llava.state_dict().items()
        for theirs, ours in _PREFIXES.items()
        if name.startswith(theirs) and not (unread and name.startswith(unread))
    }


def load(path: str | Path, **fields: Any) -> MonkeyForConditionalGeneration:
    """Monkey on a LLaVA-1.5 in a local folder or on a hub, with fresh adapters; `fields` as in `config_of`.

    Raises:
        FileNotFoundError: it is not to be had.
        ValueError: as `config_of`.
    """
    with pretrained.explained(str(path)):
        config = config_of(LlavaConfig.from_pretrained(path), **fields)
    return build_with_weights(config, state_dict(path), FRESH)
