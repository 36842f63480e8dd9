"""Tags by EfficientNet-Lite0: a class name for a crop, and a caption of the image from a template.

Nothing here captions freely: a tag is one of ImageNet's 1,000 class names, and the caption joins the
likeliest one and the objects that a regions expert counted into one sentence.
"""

import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from monkeylib import assets, boxes
from monkeylib.captions.annotations import Caption, ExpertOutput, Region
from monkeylib.captions.experts.yolox import YoloxRegions
from monkeylib.captions.filtering import MOST_OF_IMAGE, REGION_MATCH, confidence_margin, names_agree
from monkeylib.captions.models import DependentExpert, Expert, RegionCaptioner
from monkeylib.captions.registry import register_expert
from monkeylib.english import join_with_and, with_count

if TYPE_CHECKING:
    from monkeylib.captions.experts._efficientnet_lite import EfficientNetLite0

WEIGHTS, NAMES = "efficientnet-lite0", "imagenet-names"
SIDE = 224  # input pixels
_CENTRE, _SPREAD = 127.0, 128.0  # of a pixel's value, as the network was trained


class Tagger(RegionCaptioner):
    """The likeliest class of each crop, and its probability."""

    name = "efficientnet-lite0"
    version = "imagenet-224"
    licence = "Apache-2.0"
    setting_names = ("minimum",)
    asset_names = (WEIGHTS, NAMES)
    names_classes = True

    def __init__(self, minimum: float = 0.1, batch_size: int = 16) -> None:
        """Create the tagger; nothing is loaded yet.

        Args:
            minimum: probability below which a class gives no tag.
            batch_size: number of crops per forward pass.
        """
        self.minimum, self.batch_size = minimum, batch_size

    @cached_property
    def _network(self) -> "EfficientNetLite0":
        from monkeylib.captions.experts._efficientnet_lite import load_efficientnet

        return load_efficientnet(assets.fetch(WEIGHTS))

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """The first of each class's names, in the order of the network's outputs."""
        names = json.loads(assets.fetch(NAMES).read_text(encoding="utf-8"))
        return tuple(names[str(index)].split(",")[0] for index in range(len(names)))

    def prepare(self) -> None:
        """Load the network and the names of its classes, fetched first if they are missing."""
        _ = self._network
        _ = self._names

    def release(self) -> None:
        """Free the network."""
        self.__dict__.pop("_network", None)

    def caption(self, crops: Sequence[Image.Image]) -> list[tuple[str, float]]:
        """Return the tag of each crop on a white square; an empty one where no class is likely enough."""
        return self.tags([on_white_square(crop) for crop in crops])

    def tags(self, images: Sequence[Image.Image]) -> list[tuple[str, float]]:
        """Return the tag of each image, stretched to a square, and its probability."""
        import torch

        tags = []
        for start in range(0, len(images), self.batch_size):
            # [B, 3, 224, 224]
            batch = np.stack([squeeze(image) for image in images[start : start + self.batch_size]])
            with torch.inference_mode():
                best = self._network(torch.from_numpy(batch)).softmax(dim=1).max(dim=1)

            # The tag is empty below the minimum, but its probability is reported.
            for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                name = self._names[index] if probability >= self.minimum else ""
                tags.append((name, probability))

        return tags


def squeeze(image: Image.Image) -> np.ndarray:
    """Return an image as input of the network, `[3, 224, 224]`, stretched to a square."""
    square = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = np.asarray(square, dtype=np.float32)
    return ((pixels - _CENTRE) / _SPREAD).transpose(2, 0, 1)


def on_white_square(image: Image.Image) -> Image.Image:
    """Return a crop in the middle of a white square, in its own proportions."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


class TagCaption(DependentExpert):
    """A caption of the full image: its tag, and the counted objects of a regions expert.

    What fills most of the image is named once: by the tag, or by the detected object if that is surer and has
    another name. What has the tag's name is not counted again either.
    """

    name = "tag-caption"
    version = "2"
    names_classes = True

    def __init__(self, upstream: Expert, tagger: Tagger | None = None, minimum: float = 0.75) -> None:
        """Combine two models.

        Args:
            upstream: the expert that detects objects.
            tagger: tags the image.
            minimum: probability from which a tag names the image; chosen on 64 labelled photographs, see
                `experiments.statement_accuracy`.
        """
        self.upstream, self.tagger, self.minimum = upstream, tagger or Tagger(), minimum
        self.licence = self.tagger.licence

    @property
    def settings(self) -> dict[str, Any]:
        """Both models, and the lowest probability of a tag."""
        # These names are part of the keys of cached results.
        return {
            "minimum": self.minimum,
            "source": self.upstream.provenance.model_dump(mode="json"),
            "tagger": self.tagger.provenance.model_dump(mode="json"),
        }

    def check(self) -> None:
        """Check the tagger; the upstream expert has a stage of its own."""
        self.tagger.check()

    def prepare(self) -> None:
        """Load the tagger; the pipeline prepares the upstream expert when its annotations are missing."""
        self.tagger.prepare()

    def release(self) -> None:
        """Free the tagger."""
        self.tagger.release()

    def annotate_from(
        self, images: Sequence[Image.Image], upstream: Sequence[ExpertOutput]
    ) -> list[ExpertOutput]:
        """Return a caption of each image, none without a tag and objects."""
        tags = self.tagger.tags(images)
        threshold = self.upstream.score_threshold
        threshold = REGION_MATCH if threshold is None else threshold

        annotations = []
        for image, (tag, probability), detected in zip(images, tags, upstream, strict=True):
            regions = [region for region in detected.regions if region.score > threshold]

            # Without a reliable tag, the caption lists the objects alone.
            surest = max((r.score for r in regions if fills_image(r, image.size)), default=0.0)
            if probability < self.minimum or confidence_margin(surest, threshold) > confidence_margin(
                probability, self.minimum
            ):
                tag = ""
            text = tag_caption(tag, regions, image.size)
            if text:
                score = probability if tag else None
                caption = Caption(text=text, expert=self.name, score=score)
                annotations.append(ExpertOutput(captions=(caption,)))
            else:
                annotations.append(ExpertOutput())

        return annotations


def fills_image(region: Region, size: tuple[int, int]) -> bool:
    """Return whether a region covers most of an image of that width and height."""
    return boxes.area(region.box) / (size[0] * size[1]) > MOST_OF_IMAGE


def tag_caption(tag: str, regions: Sequence[Region], size: tuple[int, int]) -> str:
    """Return a sentence with a tag and the regions that it does not name.

    Args:
        tag: the image's tag, empty if it has none.
        regions: detected objects of high confidence.
        size: width and height of the image.

    Returns:
        The sentence; empty without tag and objects.
    """
    counts: Counter[str] = Counter()
    for region in regions:
        is_tagged = tag and (fills_image(region, size) or names_agree(region.text, tag))
        if not is_tagged:
            counts[region.text] += 1

    # One sentence of the tag, the objects, or both.
    objects = join_with_and([with_count(name, count) for name, count in counts.items()]) if counts else ""
    if tag and objects:
        return f"a picture of {with_count(tag, 1)}, with {objects}"
    if tag:
        return f"a picture of {with_count(tag, 1)}"
    return f"a picture of {objects}" if objects else ""


@register_expert("tag-caption", sets={"cpu": 3, "demonstration": 3}, assets=("yolox-nano", WEIGHTS, NAMES))
def tagged_images() -> TagCaption:
    """Return captions from tags and from YOLOX's regions."""
    return TagCaption(YoloxRegions())
