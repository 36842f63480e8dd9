"""Model: configuration, vision backbone with per-tile LoRA, resampler, language model, and Monkey itself."""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM

from monkeylib.model.config import (
    MonkeyConfig,
    MonkeyProjectorConfig,
    MonkeyResamplerConfig,
    MonkeyVisionConfig,
)
from monkeylib.model.monkey import MonkeyForConditionalGeneration, build_on_meta
from monkeylib.model.qwen import QwenConfig
from monkeylib.model.vision_tower import MonkeyVisionModel

# `exist_ok`: `integrations.transformers` has named them before.
AutoConfig.register(MonkeyConfig.model_type, MonkeyConfig, exist_ok=True)
for _auto in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    _auto.register(MonkeyConfig, MonkeyForConditionalGeneration)
AutoModel.register(MonkeyVisionConfig, MonkeyVisionModel)

__all__ = [
    "MonkeyConfig",
    "MonkeyForConditionalGeneration",
    "MonkeyProjectorConfig",
    "MonkeyResamplerConfig",
    "MonkeyVisionConfig",
    "MonkeyVisionModel",
    "QwenConfig",
    "build_on_meta",
]
