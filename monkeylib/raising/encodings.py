"""Encoded images of a raised model, which any number of prompts about them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from transformers import BatchFeature, GenerationMixin, PreTrainedModel
from transformers.utils import ModelOutput

from monkeylib.raising.conversations import Conversations
from monkeylib.raising.tower import run_image_encoder
from monkeylib.tiling import Grid


class EncodedViews(NamedTuple):
    """The views of an image as the language model reads them.

    Fields:
        grid: rows and columns of its tiles.
        output: what the model's own `get_image_features` returns.
    """

    grid: Grid
    output: ModelOutput


def can_share(model: Any) -> bool:
    """Tell whether a raised model takes encoded images in `generate`."""
    base = type(model).__mro__[2]
    return base.generate is GenerationMixin.generate and model._supports_mm_encoder_outputs()


@torch.no_grad()
def encode_views(
    model: PreTrainedModel, conversations: Conversations, image: Image.Image, grid: Grid
) -> EncodedViews:
    """Cut and encode an image.

    Args:
        model: raised, one of those that `can_share`.
        conversations: of the model.
        image: opened.
        grid: of its tiles.

    Raises:
        ValueError: the model has no adapters for these tiles.
    """
    views = BatchFeature(conversations.views_of([[image]], [[grid]])).to(model.device, model.dtype)
    with model.view_state.use(views.pop("tile_index")):
        return EncodedViews(grid, run_image_encoder(model, views))


def join_encodings(outputs: Sequence[ModelOutput]) -> ModelOutput:
    """Return the encodings of several images as that of all of them, one after the other.

    Beside the features (`pooler_output`), it holds what is the same for every image, such as Ovis2's
    embeddings of the tokens around one.
    """
    features = [output.pooler_output for output in outputs]
    if isinstance(features[0], torch.Tensor):
        joined_features: Any = torch.cat(features)
    else:
        joined_features = [view for of_image in features for view in of_image]

    first, *others = outputs
    shared = {
        name: value
        for name, value in first.items()
        if isinstance(value, torch.Tensor) and all(torch.equal(value, other[name]) for other in others)
    }
    joined = type(first)(**shared)
    # Not every class has a field of this name; transformers' own models set it, too.
    joined.pooler_output = joined_features
    return joined
