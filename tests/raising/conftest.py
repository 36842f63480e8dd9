"""Raised tiny models."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from monkeylib.raising import Raised, raise_resolution
from monkeylib.raising.adapters import layer_adapters
from tests.support import tiny_vlms


def noise_image(seed: int = 0, width: int = 90, height: int = 70) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def train_adapters(model: torch.nn.Module) -> None:
    """Give the adapters weights as of a trained model, so that each has an effect."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for adapters in layer_adapters(model).values():
            for adapter in adapters:
                adapter.lora_B.normal_(std=0.2, generator=generator)


def run(model: torch.nn.Module, inputs: Any, **options: Any) -> Any:
    """Call a model; one with a decoder starts it with two tokens."""
    if model.config.is_encoder_decoder and "labels" not in options:
        options["decoder_input_ids"] = torch.full((len(inputs["input_ids"]), 2), 5)
    return model(**{**inputs, **options})


@pytest.fixture()
def llava() -> tiny_vlms.TinyVLM:
    """Return a tiny LLaVA that is not raised."""
    return tiny_vlms.build("llava_clip")


@pytest.fixture()
def raise_llava() -> Callable[..., Raised]:
    """Return a function that raises a tiny LLaVA, with adapters that have an effect."""

    def build(trained: bool = True, **options: Any) -> Raised:
        vlm = tiny_vlms.build("llava_clip")
        raised = raise_resolution(vlm.model, vlm.processor, **{"rank": 4, **options})
        if trained:
            train_adapters(raised.model)
        return raised

    return build


@pytest.fixture()
def raised(raise_llava) -> Raised:
    """Return a tiny LLaVA raised to 2x2."""
    return raise_llava()


@pytest.fixture()
def inputs(raised) -> Any:
    """Return the inputs of one image of 2x2 tiles and its global view."""
    return raised.processor(images=noise_image(), text="<image>ab", return_tensors="pt")
