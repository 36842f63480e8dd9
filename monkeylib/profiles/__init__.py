"""Profiles: one YAML for each size of the whole series, from a smoke test to the paper.

A profile may `extends:` another one and then states only what differs.
"""

from pathlib import Path
from typing import Any

import yaml
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase

from monkeylib.errors import choose
from monkeylib.model import MonkeyConfig, MonkeyProjectorConfig, MonkeyResamplerConfig, MonkeyVisionConfig
from monkeylib.profiles.schema import HFVisionConfig, Profile

FOLDER = Path(__file__).parent

# From the smallest to the largest.
_ORDER = (
    "smoke",
    "nano",
    "small",
    "llava-448",
    "llava-672",
    "paper-896-qlora",
    "paper-896",
    "paper-1344",
)

__all__ = ["Profile", "build_config", "load_profile", "profile_names"]


def profile_names() -> list[str]:
    """Return the names of all profiles, from the smallest to the largest."""
    names = {path.stem for path in FOLDER.glob("*.yaml")}
    return [name for name in _ORDER if name in names] + sorted(names.difference(_ORDER))


def load_profile(name: str) -> Profile:
    """Load a profile.

    Args:
        name: name of one of the library's profiles, or a YAML file, which may extend one of them.

    Raises:
        ValueError: there is none, or its YAML does not fit the schema.
    """
    title = Path(name).stem if name.endswith(".yaml") else name
    return Profile(name=title, **_read_yaml(name))


def _read_yaml(name: str) -> dict[str, Any]:
    """Return the YAML of a profile, merged over that of the profile which it extends."""
    file = Path(name) if name.endswith(".yaml") else FOLDER / f"{name}.yaml"
    if not file.is_file():
        choose("profile", name, profile_names(), otherwise="or a YAML file")

    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    parent = values.pop("extends", None)
    return values if parent is None else _merge(_read_yaml(parent), values)


def _merge(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `override`, section by section."""
    merged = dict(base)
    for key, value in override.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = _merge(base[key], value)
        else:
            merged[key] = value
    return merged


# --- configuration of the model


def build_config(profile: Profile, tokenizer: PreTrainedTokenizerBase | None = None) -> MonkeyConfig:
    """Return the configuration of a profile's model.

    Args:
        profile: sizes of the components, tile grid and LoRA.
        tokenizer: takes vocabulary size and special ids from it rather than from the profile.
    """
    text_fields = dict(profile.language_model.config)
    ids = profile.language_model.image_token_ids
    start_id, end_id, placeholder_id = ids.start, ids.end, ids.placeholder

    if tokenizer is not None:
        # A pretrained model may have more embeddings than its tokenizer has tokens.
        embeddings = text_fields["vocab_size"] if profile.language_model.pretrained else 0
        text_fields["vocab_size"] = max(len(tokenizer), embeddings)
        text_fields["eos_token_id"] = tokenizer.eos_token_id
        text_fields["pad_token_id"] = tokenizer.pad_token_id
        if start_id is not None:
            image_tokens = ["<img>", "</img>", "<imgpad>"]
            start_id, end_id, placeholder_id = tokenizer.convert_tokens_to_ids(image_tokens)

    return MonkeyConfig(
        vision_config=_vision_config(profile),
        resampler_config=_resampler_config(profile),
        text_config=AutoConfig.for_model(profile.language_model.model_type, **text_fields),
        tile_size=profile.tile_size,
        image_start_id=start_id,
        image_end_id=end_id,
        image_token_id=placeholder_id,
        grids=[] if profile.views == "global" else [[profile.rows, profile.cols]],
        views=profile.views,
        lora_mode=profile.lora.mode,
        attention_rank=profile.lora.attention_rank,
        mlp_rank=profile.lora.mlp_rank,
        lora_dropout=profile.lora.dropout,
    )


def _vision_config(profile: Profile) -> PreTrainedConfig:
    if isinstance(profile.vision, HFVisionConfig):
        return AutoConfig.for_model(profile.vision.model_type, **profile.vision.config)
    return MonkeyVisionConfig(
        tile_size=profile.tile_size, **profile.vision.model_dump(exclude={"pretrained"})
    )


def _resampler_config(profile: Profile) -> PreTrainedConfig:
    if profile.resampler_heads is None:
        return MonkeyProjectorConfig()
    return MonkeyResamplerConfig(queries=profile.queries, heads=profile.resampler_heads)
