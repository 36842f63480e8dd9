"""Places for visual tokens in prompts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def count_places(features: Mapping[str, Any], image_token_id: int | None) -> int | None:
    """Return the places for visual tokens in prompts, None where the features don't tell.

    Args:
        features: `input_ids`, and of Kosmos-2 also `image_embeds_position_mask`, as tensors, arrays or lists.
        image_token_id: that stands in a place.
    """
    mask = features.get("image_embeds_position_mask")
    if mask is not None:
        return sum(_count(row, 1) for row in mask)

    input_ids = features.get("input_ids")
    if image_token_id is None or input_ids is None:
        return None
    # One synchronisation with the device, not one a row.
    if isinstance(input_ids, torch.Tensor):
        return _count(input_ids, image_token_id)
    return sum(_count(row, image_token_id) for row in input_ids)


def _count(values: Any, value: int) -> int:
    if isinstance(values, torch.Tensor):
        return int((values == value).sum())
    return int((np.asarray(values) == value).sum())
