"""Profiles: one YAML per size of the whole series, from a smoke test to the paper.

A profile may `extends:` another one and then only says what differs.
"""

from pathlib import Path
from typing import Any

import yaml
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase

from monkeylib.errors import choose
from monkeylib.model import MonkeyConfig, MonkeyProjectorConfig, MonkeyResamplerConfig, MonkeyVisionConfig
from monkeylib.profiles.schema import Encoder, Profile

FOLDER = Path(__file__).parent

__all__ = ["Profile", "build_config", "load", "names"]


def names() -> list[str]:
    """The profiles there are, from the smallest to the largest."""
    order = ["smoke", "nano", "small", "llava-448", "llava-672"]
    order += ["paper-896-qlora", "paper-896", "paper-1344"]
    found = {path.stem for path in FOLDER.glob("*.yaml")}
    return [name for name in order if name in found] + sorted(found.difference(order))


def load(name: str) -> Profile:
    """The profile of that name, or that of a YAML file of your own, which may extend one of those here.

    Raises:
        ValueError: there is none, or its YAML does not fit the schema.
    """
    return Profile(name=Path(name).stem if name.endswith(".yaml") else name, **_read(name))


def build_config(profile: Profile, tokenizer: PreTrainedTokenizerBase | None = None) -> MonkeyConfig:
    """The model's configuration.

    Args:
        profile: sizes of the parts, the grid and the adapters.
        tokenizer: takes vocabulary size and special ids from it rather than from the profile.
    """
    text = dict(profile.text.config)
    ids = profile.text.image_ids
    start, end, place = ids.start, ids.end, ids.place
    if tokenizer is not None:
        padded = text["vocab_size"] if profile.text.pretrained else 0  # rows that no token has
        text["vocab_size"] = max(len(tokenizer), padded)
        if start is not None:
            start, end, place = tokenizer.convert_tokens_to_ids(["<img>", "</img>", "<imgpad>"])
        text |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return MonkeyConfig(
        vision_config=_vision(profile),
        resampler_config=_resampler(profile),
        text_config=AutoConfig.for_model(profile.text.model_type, **text),
        tile_size=profile.tile_size,
        image_start_id=start,
        image_end_id=end,
        image_token_id=place,
        grids=[] if profile.views == "global" else [[profile.rows, profile.cols]],
        views=profile.views,
        lora_mode=profile.lora.mode,
        attention_rank=profile.lora.attention_rank,
        mlp_rank=profile.lora.mlp_rank,
        lora_dropout=profile.lora.dropout,
    )


def _vision(profile: Profile) -> PreTrainedConfig:
    if isinstance(profile.vision, Encoder):
        return AutoConfig.for_model(profile.vision.model_type, **profile.vision.config)
    return MonkeyVisionConfig(
        tile_size=profile.tile_size, **profile.vision.model_dump(exclude={"pretrained"})
    )


def _resampler(profile: Profile) -> PreTrainedConfig:
    if profile.resampler_heads is None:
        return MonkeyProjectorConfig()
    return MonkeyResamplerConfig(queries=profile.queries, heads=profile.resampler_heads)


def _read(name: str) -> dict[str, Any]:
    """The YAML of a profile, over the one it extends."""
    file = Path(name) if name.endswith(".yaml") else FOLDER / f"{name}.yaml"
    if not file.is_file():
        choose("profile", name, names(), otherwise="or a YAML file")
    own = yaml.safe_load(file.read_text(encoding="utf-8"))
    parent = own.pop("extends", None)
    return own if parent is None else _merge(_read(parent), own)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` over `below`, section by section."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _merge(below[key], value) if both else value
    return merged
