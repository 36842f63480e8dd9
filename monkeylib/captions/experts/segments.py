"""Segments in words: masks of one expert, each cut out and described by another model."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from monkeylib.captions.annotations import ExpertOutput, Region
from monkeylib.captions.experts.base import DependentExpert, Expert, RegionCaptioner, crop

LARGEST = 20  # release: masks of an image that are described, by area


def cut_out(image: Image.Image, region: Region) -> Image.Image:
    """A region with white outside its mask, cropped to its box (as the release shows segments to BLIP-2)."""
    if region.mask is not None:
        pixels = np.asarray(image).copy()
        pixels[~region.mask.array()] = 255
        image = Image.fromarray(pixels)
    return crop(image, region.box)


def largest(regions: Sequence[Region], count: int = LARGEST) -> list[Region]:
    """The regions with the most pixels in their masks, largest first; the earlier one where two are equal."""
    return sorted(regions, key=lambda region: -(region.mask.area if region.mask else 0))[:count]


class DescribedSegments(DependentExpert):
    """The largest masks of a segmenting expert, described one by one by a describer."""

    def __init__(self, source: Expert, describer: RegionCaptioner, count: int = LARGEST) -> None:
        self.source, self.describer, self.count = source, describer, count
        self.name = f"{source.name}+{describer.name}"
        self.version = f"{source.version}+{describer.version}"
        self.licence = " and ".join(dict.fromkeys([source.licence, describer.licence]))
        self.gpu_share = describer.gpu_share

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of both models, and how many masks are described."""
        parts = {"source": self.source, "describer": self.describer}
        return {"count": self.count, **{k: v.provenance.model_dump(mode="json") for k, v in parts.items()}}

    def prepare(self) -> None:
        """Load the describer; the source is prepared when its own findings are missing."""
        self.describer.prepare()

    def release(self) -> None:
        """Free the describer."""
        self.describer.release()

    def refine(self, images: Sequence[Image.Image], found: Sequence[ExpertOutput]) -> list[ExpertOutput]:
        """The described segments of each image; those that the describer has no words for are left out."""
        chosen = [largest(item.regions, self.count) for item in found]
        crops = [
            cut_out(image, region)
            for image, regions in zip(images, chosen, strict=True)
            for region in regions
        ]
        said = self.describer.describe(crops) if crops else []
        if len(said) != len(crops):
            raise ValueError(f"{self.describer.name} described {len(said)} of {len(crops)} segments")
        answers = iter(said)
        return [ExpertOutput(regions=self._described(regions, answers)) for regions in chosen]

    def _described(self, regions: Sequence[Region], said: Iterator[tuple[str, float]]) -> tuple[Region, ...]:
        named = [(region, text.strip(), score) for region, (text, score) in zip(regions, said, strict=False)]
        return tuple(
            region.model_copy(update={"text": text, "score": score, "kind": "segment", "expert": self.name})
            for region, text, score in named
            if text
        )
