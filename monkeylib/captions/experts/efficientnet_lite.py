"""EfficientNet-Lite0: the network, and its weights out of the file that ships them.

EfficientNet-B0 without squeeze-and-excitation and with ReLU6 in the place of Swish, so transformers'
EfficientNet can't hold its weights. It was trained in TensorFlow, whose "same" padding puts the odd pixel
right and below.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

SIDE = 224
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
_NAMES = {
    "_conv_stem.": "stem.convolution.",
    "_bn0.": "stem.norm.",
    "_conv_head.": "head.convolution.",
    "_bn1.": "head.norm.",
    "_fc.": "classifier.",
}
_BLOCK_NAMES = {
    "_expand_conv.": "expand.convolution.",
    "_bn0.": "expand.norm.",
    "_depthwise_conv.": "depthwise.convolution.",
    "_bn1.": "depthwise.norm.",
    "_project_conv.": "project.convolution.",
    "_bn2.": "project.norm.",
}


class Layer(nn.Module):
    """A convolution that keeps the size but for its stride, its norm, and ReLU6 unless `linear`."""

    def __init__(
        self, wide: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(wide, out, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out, eps=_EPSILON)
        self.linear = linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, in, H, W]` to `[B, out, H / stride, W / stride]`, rounded up."""
        kernel, stride = self.convolution.kernel_size[0], self.convolution.stride[0]
        if kernel > 1:
            height, width = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        x = self.norm(self.convolution(x))
        return x if self.linear else F.relu6(x)


class Block(nn.Module):
    """Expand, look around in each channel, project; the input is added where shapes allow."""

    def __init__(self, wide: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = wide * expansion
        self.expand = Layer(wide, inner) if expansion > 1 else None
        self.depthwise = Layer(inner, inner, kernel, stride, groups=inner)
        self.project = Layer(inner, out, linear=True)
        self.residual = stride == 1 and wide == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, in, H, W]` to `[B, out, H / stride, W / stride]`."""
        y = self.project(self.depthwise(x if self.expand is None else self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """The classifier of 1,000 classes."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = Layer(3, _STEM, 3, 2)
        blocks, wide = [], _STEM
        for repeats, kernel, stride, expansion, out in STAGES:
            for repeat in range(repeats):
                blocks.append(Block(wide, out, kernel, 1 if repeat else stride, expansion))
                wide = out
        self.blocks = nn.Sequential(*blocks)
        self.head = Layer(wide, _FEATURES)
        self.classifier = nn.Linear(_FEATURES, classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits `[B, classes]` of normalised pixels `[B, 3, H, W]`."""
        return self.classifier(self.head(self.blocks(self.stem(pixels))).mean(dim=(2, 3)))


def load(path: Path) -> EfficientNetLite0:
    """The network with the weights of a file, ready to classify.

    Raises:
        ValueError: the file holds other weights.
    """
    state = renamed(torch.load(path, weights_only=True, map_location="cpu"))
    model = EfficientNetLite0()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{path} holds no EfficientNet-Lite0: fetch the asset efficientnet-lite0 anew"
        ) from error
    return model.eval()


def renamed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of the published file under the names of `EfficientNetLite0`."""
    return {_rename(name): tensor for name, tensor in state.items()}


def _rename(name: str) -> str:
    if name.startswith("_blocks."):
        _, number, rest = name.split(".", 2)
        return f"blocks.{number}." + _swap(rest, _BLOCK_NAMES)
    return _swap(name, _NAMES)


def _swap(name: str, names: Mapping[str, str]) -> str:
    old = next((old for old in names if name.startswith(old)), "")
    return names[old] + name.removeprefix(old) if old else name
