"""Mean and standard deviation of the pixels that vision encoders were trained on."""

from collections.abc import Sequence

import torch
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# `model_type` of a vision backbone -> mean and standard deviation of red, green and blue
_NORMALISATIONS = {
    "dinov2": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "siglip_vision_model": (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD),
}


def normalisation(model_type: str) -> tuple[Sequence[float], Sequence[float]]:
    """Return mean and standard deviation of the pixels that a type of vision encoder was trained on.

    Monkey's own ViT uses CLIP's.
    """
    return _NORMALISATIONS.get(model_type, (CLIP_MEAN, CLIP_STD))


def normalise_bytes(views: torch.Tensor, model_type: str) -> torch.Tensor:
    """Return views of bytes `[V, 3, side, side]` as an encoder of a type takes them, in float32."""
    # Mean and deviation in bytes: [2, 3, 1, 1]
    mean, std = 255 * torch.tensor(normalisation(model_type), device=views.device)[:, :, None, None]
    return views.float().sub_(mean).div_(std)
