"""EfficientNet-Lite0, the classifier of ImageNet's 1,000 classes under the tagger, and its weights."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

_STEM, _FEATURES = 32, 1280
_EPSILON = 1e-3

# (repeats, kernel, stride, expansion, channels) of each stage
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)

# Prefixes of the published names of weights -> prefixes here.
NAMES = {
    "_conv_stem.": "stem.convolution.",
    "_bn0.": "stem.norm.",
    "_conv_head.": "head.convolution.",
    "_bn1.": "head.norm.",
    "_fc.": "classifier.",
}
BLOCK_NAMES = {
    "_expand_conv.": "expand.convolution.",
    "_bn0.": "expand.norm.",
    "_depthwise_conv.": "depthwise.convolution.",
    "_bn1.": "depthwise.norm.",
    "_project_conv.": "project.convolution.",
    "_bn2.": "project.norm.",
}


class Layer(nn.Module):
    """A convolution that keeps the size but for its stride, batch norm, and ReLU6 unless `linear`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=_EPSILON)
        self.linear = linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[B, in, H, W]` to `[B, out, H / stride, W / stride]`, rounded up."""
        kernel, stride = self.convolution.kernel_size[0], self.convolution.stride[0]

        # TensorFlow's "same" padding: the odd pixel goes to the right and below.
        if kernel > 1:
            height, width = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))

        x = self.norm(self.convolution(x))
        return x if self.linear else F.relu6(x)


class Block(nn.Module):
    """An inverted residual block: expand, convolve each channel, project."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        # MobileNetV2's block: wide inside, narrow at its ends, with a linear projection.
        inner = in_channels * expansion
        self.expand = Layer(in_channels, inner) if expansion > 1 else None
        self.depthwise = Layer(inner, inner, kernel, stride, groups=inner)
        self.project = Layer(inner, out_channels, linear=True)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[B, in, H, W]` to `[B, out, H / stride, W / stride]`."""
        expanded = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(expanded))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """The full classifier."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = Layer(3, _STEM, 3, 2)

        blocks, in_channels = [], _STEM
        for repeats, kernel, stride, expansion, out_channels in STAGES:
            for repeat in range(repeats):
                # Only the first block of a stage has its stride.
                block_stride = stride if repeat == 0 else 1
                blocks.append(Block(in_channels, out_channels, kernel, block_stride, expansion))
                in_channels = out_channels

        self.blocks = nn.Sequential(*blocks)

        self.head = Layer(in_channels, _FEATURES)
        self.classifier = nn.Linear(_FEATURES, classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits `[B, classes]` of normalised pixels `[B, 3, H, W]`."""
        features = self.head(self.blocks(self.stem(pixels)))  # [B, 1280, H / 32, W / 32]
        return self.classifier(features.mean(dim=(2, 3)))


def load_efficientnet(path: Path) -> EfficientNetLite0:
    """Return the network with the weights of a file, ready to classify.

    Raises:
        ValueError: the file holds other weights.
    """
    published = torch.load(path, weights_only=True, map_location="cpu")
    model = EfficientNetLite0()
    try:
        model.load_state_dict(rename_weights(published))
    except RuntimeError as error:
        raise ValueError(
            f"{path} holds no EfficientNet-Lite0: fetch the asset efficientnet-lite0 anew"
        ) from error

    return model.eval()


def rename_weights(published: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of the published file under the names of `EfficientNetLite0`."""
    renamed = {}
    for name, tensor in published.items():
        # "_blocks.3._bn0.weight" -> "blocks.3.expand.norm.weight"
        if name.startswith("_blocks."):
            _, number, rest = name.split(".", 2)
            renamed[f"blocks.{number}.{_replace_prefix(rest, BLOCK_NAMES)}"] = tensor
        else:
            renamed[_replace_prefix(name, NAMES)] = tensor

    return renamed


def _replace_prefix(name: str, names: Mapping[str, str]) -> str:
    for published, attribute in names.items():
        if name.startswith(published):
            return attribute + name.removeprefix(published)
    return name
