"""The model: configuration, vision transformer, adapters, resampler, and the whole."""

from monkeylib.model.config import MonkeyConfig, MonkeyResamplerConfig, MonkeyVisionConfig
from monkeylib.model.monkey import MonkeyForConditionalGeneration

__all__ = ["MonkeyConfig", "MonkeyForConditionalGeneration", "MonkeyResamplerConfig", "MonkeyVisionConfig"]
