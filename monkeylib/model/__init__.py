"""Model: configuration, vision backbone with per-tile LoRA, resampler, language model, and Monkey itself."""

from transformers import AutoConfig, AutoModelForImageTextToText

from monkeylib.model.config import (
    MonkeyConfig,
    MonkeyProjectorConfig,
    MonkeyResamplerConfig,
    MonkeyVisionConfig,
)
from monkeylib.model.monkey import MonkeyForConditionalGeneration, build_on_meta
from monkeylib.model.qwen import QwenConfig

AutoConfig.register(MonkeyConfig.model_type, MonkeyConfig)
AutoModelForImageTextToText.register(MonkeyConfig, MonkeyForConditionalGeneration)

__all__ = [
    "MonkeyConfig",
    "MonkeyForConditionalGeneration",
    "MonkeyProjectorConfig",
    "MonkeyResamplerConfig",
    "MonkeyVisionConfig",
    "QwenConfig",
    "build_on_meta",
]
