"""Tags by EfficientNet-Lite0: a name for a crop, and a caption of the whole picture in fixed words.

Nothing here describes: a tag is one of ImageNet's 1,000 class names, and the caption puts the likeliest one
and the objects that a regions expert counted into one sentence.
"""

import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from monkeylib.captions.annotations import Caption, Findings, Region
from monkeylib.captions.experts.base import Describer, Expert, Refiner
from monkeylib.captions.experts.efficientnet_lite import SIDE, EfficientNetLite0, load
from monkeylib.captions.filtering import REGION_MATCH
from monkeylib.captions.wording import counted, listed
from monkeylib.data import assets

WEIGHTS, NAMES = "efficientnet-lite0", "imagenet-names"
_CENTRE, _SPREAD = 127.0, 128.0  # of a pixel's value, as the network was trained


def squashed(image: Image.Image) -> np.ndarray:
    """A picture as the network takes it, `[3, 224, 224]`, whatever its shape was."""
    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float32)
    return ((pixels - _CENTRE) / _SPREAD).transpose(2, 0, 1)


def squared(image: Image.Image) -> Image.Image:
    """A crop in the middle of a white square, in its own proportions."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


class Tagger(Describer):
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
        """The tag of each picture, taken as a whole."""
        found = []
        for start in range(0, len(images), self.batch_size):
            batch = np.stack([squashed(image) for image in images[start : start + self.batch_size]])
            best = self._network(torch.from_numpy(batch)).softmax(dim=1).max(dim=1)
            found += [
                (self._names[index] if share >= self.minimum else "", share)
                for share, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
        return found


class TagCaption(Refiner):
    """One caption of the whole picture: its tag, and how many of which objects a regions expert saw in it.

    Objects that fill most of the picture are what the tag names, so that they aren't counted beside it.
    """

    name = "tag-caption"
    version = "1"

    def __init__(self, source: Expert, tagger: Tagger | None = None, minimum: float = 0.3) -> None:
        """`minimum` is the probability from which a tag is said of the whole picture."""
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

    def refine(self, images: Sequence[Image.Image], found: Sequence[Findings]) -> list[Findings]:
        """A caption of each picture, none where there is nothing to say."""
        captions = []
        for image, (tag, share), seen in zip(images, self.tagger.tags(images), found, strict=True):
            tag = tag if share >= self.minimum else ""
            text = caption(tag, seen.regions, image.size)
            said = (Caption(text=text, expert=self.name, score=share if tag else None),)
            captions.append(Findings(captions=said if text else ()))
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
