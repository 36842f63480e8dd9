"""The projector of LLaVA-1.5 in the place of the resampler: one visual token per patch."""

import torch
from torch import nn
from transformers.activations import ACT2FN

from monkeylib.model.config import MonkeyConfig


class Projector(nn.Module):
    """Patch features `[V, patches, vision width]` -> visual tokens `[V, patches, width]`, by two linear
    layers with an activation between them."""

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__()
        width = config.text_config.hidden_size
        self.linear_1 = nn.Linear(config.vision_config.hidden_size, width)
        self.act = ACT2FN[config.resampler_config.hidden_act]
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: torch.Tensor, patch_grid: tuple[int, int] | None = None) -> torch.Tensor:
        """Project each patch; how the patches lie (`patch_grid`) makes no difference."""
        return self.linear_2(self.act(self.linear_1(features)))
