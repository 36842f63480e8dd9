"""Captioned segments: masks of one expert, each cut out and captioned by another model."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from monkeylib.captions.annotations import ExpertOutput, Region, largest_first
from monkeylib.captions.experts.blip2 import Blip2Segments
from monkeylib.captions.experts.sam import SamMasks
from monkeylib.captions.experts.sam_distilled import SamDistilled
from monkeylib.captions.experts.tagger import Tagger
from monkeylib.captions.models import DependentExpert, Expert, RegionCaptioner, cut_out
from monkeylib.captions.registry import register_expert

LARGEST = 20  # released code: number of masks of an image that are captioned, by area


class CaptionedSegments(DependentExpert):
    """The largest masks of a segmenting expert, captioned one by one."""

    def __init__(self, upstream: Expert, captioner: RegionCaptioner, count: int = LARGEST) -> None:
        """Combine two models.

        Args:
            upstream: the expert that segments.
            captioner: captions the segments.
            count: maximum number of segments of an image that are captioned.
        """
        self.upstream, self.captioner, self.count = upstream, captioner, count
        self.name = f"{upstream.name}+{captioner.name}"
        self.version = f"{upstream.version}+{captioner.version}"
        self.licence = " and ".join(dict.fromkeys([upstream.licence, captioner.licence]))
        self.gpu_share = captioner.gpu_share
        self.names_classes = captioner.names_classes

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of both models, and the number of masks that are captioned."""
        # These names are part of the keys of cached results.
        return {
            "count": self.count,
            "source": self.upstream.provenance.model_dump(mode="json"),
            "describer": self.captioner.provenance.model_dump(mode="json"),
        }

    def check(self) -> None:
        """Check the captioner; the upstream expert has a stage of its own."""
        self.captioner.check()

    def prepare(self) -> None:
        """Load the captioner; the pipeline prepares the upstream expert when its annotations are missing."""
        self.captioner.prepare()

    def release(self) -> None:
        """Free the captioner."""
        self.captioner.release()

    def annotate_from(
        self, images: Sequence[Image.Image], upstream: Sequence[ExpertOutput]
    ) -> list[ExpertOutput]:
        """Return the captioned segments of each image, without those that get an empty caption."""
        # The largest masks; of equal ones the earlier first.
        segments = [largest_first(annotations.regions)[: self.count] for annotations in upstream]

        # Caption the crops of all images together, so that batches are full.
        crops = []
        for image, regions in zip(images, segments, strict=True):
            crops += [cut_out(image, region) for region in regions]
        captions = self.captioner.caption(crops) if crops else []
        if len(captions) != len(crops):
            raise ValueError(f"{self.captioner.name} captioned {len(captions)} of {len(crops)} segments")

        # Split the captions again, to each image as many as it has segments.
        annotations, start = [], 0
        for regions in segments:
            end = start + len(regions)
            annotations.append(ExpertOutput(regions=self._with_captions(regions, captions[start:end])))
            start = end

        return annotations

    def _with_captions(
        self, regions: Sequence[Region], captions: Sequence[tuple[str, float]]
    ) -> tuple[Region, ...]:
        captioned = []
        for region, (text, score) in zip(regions, captions, strict=True):
            text = text.strip()
            if text:
                changes = {"text": text, "score": score, "kind": "segment", "expert": self.name}
                captioned.append(region.model_copy(update=changes))

        return tuple(captioned)


@register_expert("sam-blip2", sets={"paper": 3})
def sam_blip2() -> CaptionedSegments:
    """Return SAM's largest masks, each captioned by BLIP-2: the paper's segments."""
    return CaptionedSegments(SamMasks(), Blip2Segments())


# Not in the set "cpu", whose captions people use: most tags of segments are wrong, whatever the threshold
# (notebook 04), and those of a few pixels above all. The paper has no smallest size, and its set has none
# here, since BLIP-2 captions freely and may return nothing.
@register_expert(
    "tagged-segments",
    sets={"demonstration": 4},
    assets=("sam-distilled", "efficientnet-lite0", "imagenet-names"),
    smallest_segment=0.03,
)
def tagged_segments() -> CaptionedSegments:
    """Return the distilled SAM's largest segments, each with its tag."""
    return CaptionedSegments(SamDistilled(), Tagger())
