"""What is special about families of models: the generic way needs no table but this one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import PreTrainedConfig, ProcessorMixin

Route = Literal["views", "repeat"]


@dataclass(frozen=True)
class ProcessorFamily:
    """How the processor of a family is raised.

    Fields:
        route: "views" lets the processor write its text for each view, as it does for several images;
            "repeat" writes the text of one image and repeats its places.
        image_options: arguments of the image processor that turn the family's own splitting of images off.
        has_marker: whether a prompt holds a marker for each image; the others write it themselves.
        nests_images: whether images are passed in one list a prompt; GOT-OCR2 takes one image a prompt.
        marks_answers: whether the tokens of answers have the type 1, by which PaliGemma tells them from the
            prompt, all of whose tokens see each other.
    """

    route: Route = "views"
    image_options: Mapping[str, Any] = field(default_factory=dict)
    has_marker: bool = True
    nests_images: bool = True
    marks_answers: bool = False


_WITHOUT_SPLITTING = ProcessorFamily(image_options={"do_image_splitting": False})
_WITHOUT_PATCHES = ProcessorFamily(image_options={"crop_to_patches": False})

# Class of the processor -> how it is raised; others as `ProcessorFamily()`.
PROCESSORS = {
    # Their processors have a `__call__` of their own, past the place where images become text.
    "Blip2Processor": ProcessorFamily("repeat", has_marker=False),
    "InstructBlipProcessor": ProcessorFamily("repeat", has_marker=False),
    "Kosmos2Processor": ProcessorFamily("repeat", has_marker=False),
    "Idefics2Processor": ProcessorFamily("repeat", image_options={"do_image_splitting": False}),
    # Their processors split large images, which is now done here.
    "Idefics3Processor": _WITHOUT_SPLITTING,
    "SmolVLMProcessor": _WITHOUT_SPLITTING,
    "InternVLProcessor": _WITHOUT_PATCHES,
    "AyaVisionProcessor": _WITHOUT_PATCHES,
    "Cohere2VisionProcessor": _WITHOUT_PATCHES,
    "Ovis2Processor": _WITHOUT_PATCHES,
    "PerceptionLMProcessor": ProcessorFamily(image_options={"vision_input_type": "vanilla"}),
    "Gemma3Processor": ProcessorFamily(image_options={"do_pan_and_scan": False}),
    "GotOcr2Processor": ProcessorFamily(image_options={"crop_to_patches": False}, nests_images=False),
    "PaliGemmaProcessor": ProcessorFamily(marks_answers=True),
    # Its processor writes the marker before any text.
    "Florence2Processor": ProcessorFamily(has_marker=False),
}

_OWN_TILES = "cuts images into tiles of its own, by the grids that it was trained with"
_ANY_SIZE = "reads images of any size, and has no fixed resolution to raise"

# Type of the model's configuration -> why it isn't raised. Others are tried.
REFUSED = {
    **dict.fromkeys(
        (
            "llava_next",
            "llava_next_video",
            "llava_onevision",
            "granite4_vision",
            "mllama",
            "llama4",
            "molmo2",
            "deepseek_ocr2",
            "step3p7",
        ),
        _OWN_TILES,
    ),
    **dict.fromkeys(
        (
            "qwen2_vl",
            "qwen2_5_vl",
            "qwen3_vl",
            "qwen3_vl_moe",
            "qwen3_5",
            "qwen3_5_moe",
            "glm4v",
            "glm4v_moe",
            "glm46v",
            "glm_ocr",
            "ernie4_5_vl_moe",
            "lfm2_vl",
            "lfm3_vl",
            "minicpmv4_6",
            "minicpmv4_7",
            "kimi_k25",
            "paddleocr_vl",
            "gemma4",
            "fuyu",
        ),
        _ANY_SIZE,
    ),
    "deepseek_vl_hybrid": "encodes each image with two vision towers at once",
    "chameleon": "turns images into tokens of its vocabulary, without features of a vision tower",
}


def processor_family(processor: ProcessorMixin) -> ProcessorFamily:
    """Return how a processor is raised."""
    return PROCESSORS.get(type(processor).__name__, ProcessorFamily())


def refusal(config: PreTrainedConfig) -> str | None:
    """Return why a family isn't raised, as the end of a sentence about the model; None if it is tried."""
    return REFUSED.get(config.model_type)


def image_marker(processor: ProcessorMixin) -> str:
    """Return what stands for an image in a prompt, nothing where the processor writes it itself."""
    if not processor_family(processor).has_marker:
        return ""
    marker = getattr(processor, "image_token", "")
    # Some processors hold it as a token of their tokenizer.
    return str(getattr(marker, "content", marker) or "")
