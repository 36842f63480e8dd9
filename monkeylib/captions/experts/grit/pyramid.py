"""GRiT's feature pyramid: five maps at strides of 8 to 128 pixels, from the one map of the ViT.

The simple pyramid of ViTDet (arXiv 2203.16527, section 3), with two coarser levels for the proposals.
"""

import torch
from torch import nn
from torch.nn import functional as F

from monkeylib.captions.experts.grit.config import GritConfig


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map `[B, C, h, w]`, at each place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a map of the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FeaturePyramid(nn.Module):
    """Maps p3 to p7 of the ViT's features."""

    def __init__(self, config: GritConfig) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(config.width, config.width, 2, 2, bias=False)
        self.p3, self.p4, self.p5 = (_level(config.width, config.channels) for _ in range(3))
        self.p6 = nn.Conv2d(config.channels, config.channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(config.channels, config.channels, 3, stride=2, padding=1)

    def forward(self, features: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps `[B, channels, h, w]` of the features `[B, H/16, W/16, width]`, finest first."""
        x = features.permute(0, 3, 1, 2)

        p3 = self.p3(self.upsample(x))
        p4 = self.p4(x)
        p5 = self.p5(F.max_pool2d(x, 2))
        p6 = self.p6(p5)
        p7 = self.p7(F.relu(p6))

        return [p3, p4, p5, p6, p7]


def _level(width: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, channels, 1, bias=False),
        ChannelNorm(channels, eps=1e-5),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        ChannelNorm(channels, eps=1e-5),
    )
