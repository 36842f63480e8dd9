"""Bases: image-text models of transformers with their processors, by folder or by name on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available

from monkeylib.checkpoints import hub
from monkeylib.checkpoints.weight_files import explain_broken
from monkeylib.profiles import build
from monkeylib.raising.families import refusal
from monkeylib.raising.tower import tower_name

Bits = Literal[4, 8]


def load_base(name: str | Path, bits: Bits | None = None, **options: Any) -> PreTrainedModel:
    """Load the model of a base.

    Args:
        name: of a folder, or of a model on the hub.
        bits: quantise its language model to 4 or 8 bits with bitsandbytes; the vision tower and what connects
            the two stay as they are.
        options: of transformers' `from_pretrained`, such as `dtype` or `device_map`.

    Raises:
        FileNotFoundError: there is no such base.
        ModuleNotFoundError: `bits` without bitsandbytes.
        ValueError: it is no image-text model, cannot be raised, or a file is broken.
    """
    require_base(name)
    hub.go_offline_if_unreachable(name)
    with explain_broken(name):
        config = AutoConfig.from_pretrained(name)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ValueError(
            f"{name} is a model of the type {config.model_type}, which answers no questions about images: "
            "name an image-text model of transformers"
        )
    # Before its weights are read.
    if reason := refusal(config):
        raise ValueError(f"{name} cannot be raised: it {reason}")

    if bits is not None:
        options["quantization_config"] = quantize_language_model(config, bits)
    with explain_broken(name):
        return AutoModelForImageTextToText.from_pretrained(name, **{"dtype": "auto", **options})


def require_base(name: str | Path) -> None:
    """Check that a name is that of a folder with a model, or may be one on the hub.

    Raises:
        FileNotFoundError: it is neither.
    """
    folder = Path(name)
    hub.require_finished_run(folder)
    may_be_on_hub = not folder.exists() and str(name).count("/") == 1
    if not may_be_on_hub and not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"there is no base model at {name}: expected a folder with config.json, or the name of a model "
            "on the hub, such as llava-hf/llava-1.5-7b-hf"
        )


def quantize_language_model(config: PreTrainedConfig, bits: int) -> BitsAndBytesConfig:
    """Return how transformers quantises the language model of a base, and nothing else.

    Raises:
        ModuleNotFoundError: bitsandbytes is not installed.
        ValueError: other bits.
    """
    build.require_bits(bits)
    return BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        llm_int8_skip_modules=modules_beside_language_model(config),
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def modules_beside_language_model(config: PreTrainedConfig) -> list[str]:
    """Return the names of the modules of a base that hold linear layers outside its language model."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    names = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}

    decoder = language_model_name(model)
    outside = [name for name in names if not name.startswith(f"{decoder}.")]
    tower = tower_name(model)
    return sorted({tower if name.startswith(f"{tower}.") else name for name in outside})


def language_model_name(model: PreTrainedModel) -> str:
    """Return the name of the language model among the modules of a base.

    Raises:
        ValueError: transformers finds none.
    """
    decoder = model.get_decoder()
    for name, module in model.named_modules():
        if module is decoder and name:
            return name
    raise ValueError(
        f"{type(model).__name__} has no language model that transformers finds (`get_decoder()`)"
    )


def load_base_processor(name: str | Path) -> ProcessorMixin:
    """Load the processor of a base.

    Video processors need torchvision. Without it, the processor reads images only.
    """
    processor_class = PROCESSOR_MAPPING.get(type(AutoConfig.from_pretrained(name)), None)
    reads_videos = processor_class is not None and "video_processor" in processor_class.get_attributes()
    if is_torchvision_available() or not reads_videos:
        return AutoProcessor.from_pretrained(name)

    # The same processor, with None in place of its video processor.
    class ImageOnlyProcessor(processor_class):
        def check_argument_for_proper_class(self, argument_name: str, argument: object) -> object:
            if argument_name == "video_processor":
                return type(argument)  # accepts None
            return super().check_argument_for_proper_class(argument_name, argument)

    # The name is part of the settings that a prediction is identified by.
    ImageOnlyProcessor.__name__ = processor_class.__name__
    settings, _ = processor_class.get_processor_dict(name)

    components = {
        "image_processor": AutoImageProcessor.from_pretrained(name),
        "tokenizer": AutoTokenizer.from_pretrained(name),
        "video_processor": None,
    }
    arguments = [components[attribute] for attribute in processor_class.get_attributes()]
    return ImageOnlyProcessor.from_args_and_dict(arguments, settings)
