"""Tags by EfficientNet-Lite0: a name for a crop, and a caption of the whole image in fixed words.

Nothing here describes: a tag is one of ImageNet's 1,000 class names, and the caption puts the likeliest one
and the objects that a regions expert counted into one sentence.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from monkeylib import assets
from monkeylib.captions.annotations import Caption, ExpertOutput, Region
from monkeylib.captions.experts.base import DependentExpert, Expert, RegionCaptioner
from monkeylib.captions.filtering import REGION_MATCH
from monkeylib.english import counted, listed

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


WEIGHTS, NAMES = "efficientnet-lite0", "imagenet-names"
_CENTRE, _SPREAD = 127.0, 128.0  # of a pixel's value, as the network was trained


def squashed(image: Image.Image) -> np.ndarray:
    """An image as the network takes it, `[3, 224, 224]`, whatever its shape was."""
    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float32)
    return ((pixels - _CENTRE) / _SPREAD).transpose(2, 0, 1)


def squared(image: Image.Image) -> Image.Image:
    """A crop in the middle of a white square, in its own proportions."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


class Tagger(RegionCaptioner):
    """The likeliest class of each crop, and its probability."""

    name = "efficientnet-lite0"
    version = "imagenet-224"
    licence = "Apache-2.0"

    def __init__(self, minimum: float = 0.1, batch_size: int = 16) -> None:
        """Classes below the probability `minimum` aren't worth a word."""
        self.minimum, self.batch_size = minimum, batch_size

    @property
    def settings(self) -> dict[str, Any]:
        """The lowest probability that gives a tag."""
        return {"minimum": self.minimum}

    @cached_property
    def _network(self) -> EfficientNetLite0:
        return load(assets.fetch(WEIGHTS))

    @cached_property
    def _names(self) -> tuple[str, ...]:
        names = json.loads(assets.fetch(NAMES).read_text(encoding="utf-8"))
        return tuple(names[str(index)].split(",")[0] for index in range(len(names)))

    def prepare(self) -> None:
        """Load the network and the names of its classes, fetched if they aren't there."""
        _ = self._network, self._names

    def release(self) -> None:
        """Free the network."""
        self.__dict__.pop("_network", None)

    def describe(self, crops: Sequence[Image.Image]) -> list[tuple[str, float]]:
        """The tag of each crop; an empty one where no class is likely enough."""
        return self.tags([squared(crop) for crop in crops])

    @torch.inference_mode()
    def tags(self, images: Sequence[Image.Image]) -> list[tuple[str, float]]:
        """The tag of each image, taken as a whole."""
        found = []
        for start in range(0, len(images), self.batch_size):
            batch = np.stack([squashed(image) for image in images[start : start + self.batch_size]])
            best = self._network(torch.from_numpy(batch)).softmax(dim=1).max(dim=1)
            found += [
                (self._names[index] if share >= self.minimum else "", share)
                for share, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
        return found


class TagCaption(DependentExpert):
    """One caption of the whole image: its tag, and how many of which objects a regions expert saw in it.

    Objects that fill most of the image are what the tag names, so that they aren't counted beside it.
    """

    name = "tag-caption"
    version = "1"

    def __init__(self, source: Expert, tagger: Tagger | None = None, minimum: float = 0.3) -> None:
        """`minimum` is the probability from which a tag is said of the whole image."""
        self.source, self.tagger, self.minimum = source, tagger or Tagger(), minimum
        self.licence = self.tagger.licence

    @property
    def settings(self) -> dict[str, Any]:
        """Both models, and the lowest probability of a tag."""
        models = {"source": self.source, "tagger": self.tagger}
        parts = {name: model.provenance.model_dump(mode="json") for name, model in models.items()}
        return {"minimum": self.minimum, **parts}

    def prepare(self) -> None:
        """Load the tagger; the source is prepared when its own findings are missing."""
        self.tagger.prepare()

    def release(self) -> None:
        """Free the tagger."""
        self.tagger.release()

    def refine(self, images: Sequence[Image.Image], found: Sequence[ExpertOutput]) -> list[ExpertOutput]:
        """A caption of each image, none where there is nothing to say."""
        captions = []
        for image, (tag, share), seen in zip(images, self.tagger.tags(images), found, strict=True):
            tag = tag if share >= self.minimum else ""
            text = caption(tag, seen.regions, image.size)
            said = (Caption(text=text, expert=self.name, score=share if tag else None),)
            captions.append(ExpertOutput(captions=said if text else ()))
        return captions


def caption(tag: str, regions: Sequence[Region], size: tuple[int, int]) -> str:
    """The sentence of a tag (empty if none) and of the sure ones among some regions; empty without both."""
    sure = [region for region in regions if region.score > REGION_MATCH]
    beside = [region for region in sure if not (tag and _share(region, size) > 0.5)]
    counts = Counter(region.text for region in beside)
    objects = listed([counted(name, count) for name, count in counts.items()]) if counts else ""
    if tag:
        return f"a picture of {counted(tag, 1)}" + (f", with {objects}" if objects else "")
    return f"a picture of {objects}" if objects else ""


def _share(region: Region, size: tuple[int, int]) -> float:
    x0, y0, x1, y1 = region.box
    return (x1 - x0) * (y1 - y0) / (size[0] * size[1])
