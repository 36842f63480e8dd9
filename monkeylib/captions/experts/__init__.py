"""The experts of the caption pipeline, by name. Importing this loads no model."""

from collections.abc import Callable, Sequence

from monkeylib import assets
from monkeylib.captions.experts.base import (
    Composer,
    DependentExpert,
    Expert,
    ImageTextMatcher,
    Model,
    RegionCaptioner,
)
from monkeylib.captions.experts.blip2 import Blip2Captions, Blip2Matcher, Blip2Segments
from monkeylib.captions.experts.florence2 import Florence2Regions
from monkeylib.captions.experts.grit import GritRegions
from monkeylib.captions.experts.ocr import PpOcr
from monkeylib.captions.experts.sam import SamMasks
from monkeylib.captions.experts.sam_distilled import SamDistilled
from monkeylib.captions.experts.segments import DescribedSegments
from monkeylib.captions.experts.tagger import TagCaption, Tagger
from monkeylib.captions.experts.yolox import YoloxRegions
from monkeylib.errors import choose


def tagged_images() -> TagCaption:
    """A caption of the whole image from its tag and from YOLOX's regions."""
    return TagCaption(YoloxRegions())


def tagged_segments() -> DescribedSegments:
    """The distilled SAM's largest segments, each with its tag."""
    return DescribedSegments(SamDistilled(), Tagger())


def described_segments() -> DescribedSegments:
    """SAM's largest masks, each described by BLIP-2 (the paper's segments)."""
    return DescribedSegments(SamMasks(), Blip2Segments())


EXPERTS: dict[str, Callable[[], Expert]] = {
    "pp-ocr": PpOcr,
    "yolox": YoloxRegions,
    "tag-caption": tagged_images,
    "tagged-segments": tagged_segments,
    "sam-distilled": SamDistilled,
    "blip2": Blip2Captions,
    "florence2": Florence2Regions,
    "grit": GritRegions,
    "sam-blip2": described_segments,
}
_TAGS = ("efficientnet-lite0", "imagenet-names")
ASSETS: dict[str, tuple[str, ...]] = {  # what each of the CPU set needs
    "pp-ocr": ("pp-ocr-v6-small",),
    "yolox": ("yolox-nano",),
    "tag-caption": ("yolox-nano", *_TAGS),
    "tagged-segments": ("sam-distilled", *_TAGS),
    "sam-distilled": ("sam-distilled",),
}
SETS: dict[str, tuple[str, ...]] = {
    "cpu": ("pp-ocr", "yolox", "tag-caption", "tagged-segments"),
    "paper": ("blip2", "florence2", "sam-blip2", "pp-ocr"),  # Florence-2 in the place of GRIT
    "paper-grit": ("blip2", "grit", "sam-blip2", "pp-ocr"),
}
MATCHERS: dict[str, Callable[[], ImageTextMatcher]] = {"blip2-itm": Blip2Matcher}
SET_MATCHERS = {"cpu": "none", "paper": "blip2-itm", "paper-grit": "blip2-itm"}
# Share of the image below which a tagger's guess at a segment isn't believed. Ours: the paper has no such
# limit, and its segments have none here, since BLIP-2 describes what it sees and may say nothing.
SMALLEST_SEGMENTS = {"tagged-segments": 0.03}

__all__ = [
    "EXPERTS",
    "MATCHERS",
    "SETS",
    "SET_MATCHERS",
    "SMALLEST_SEGMENTS",
    "Blip2Captions",
    "Blip2Matcher",
    "Blip2Segments",
    "Composer",
    "DescribedSegments",
    "RegionCaptioner",
    "Expert",
    "Florence2Regions",
    "GritRegions",
    "ImageTextMatcher",
    "Model",
    "PpOcr",
    "DependentExpert",
    "SamDistilled",
    "SamMasks",
    "TagCaption",
    "Tagger",
    "YoloxRegions",
    "load",
    "load_matcher",
    "missing",
    "smallest_segment",
]


def missing(name: str) -> list[str]:
    """The assets that an expert of the CPU set needs and that aren't here.

    Raises:
        ValueError: nothing of that name is in the CPU set.
    """
    choose("expert of the CPU set", name, ASSETS)
    return [asset for asset in ASSETS[name] if assets.located(assets.find(asset)) is None]


def _named(names: str | Sequence[str]) -> Sequence[str]:
    return SETS.get(names, (names,)) if isinstance(names, str) else names


def smallest_segment(names: str | Sequence[str]) -> float:
    """The share of the image that segments of these experts, or of a set, have to cover; 0 for any."""
    return max(SMALLEST_SEGMENTS.get(name, 0.0) for name in _named(names))


def load(names: str | Sequence[str]) -> list[Expert]:
    """Experts by their names, or those of a set ("cpu").

    Raises:
        ValueError: there is no expert or set of that name.
    """
    names = _named(names)
    unknown = [name for name in names if name not in EXPERTS]
    if unknown:
        raise ValueError(
            f"There is no expert {unknown[0]!r}: choose among {', '.join(EXPERTS)}, "
            f"or a set: {', '.join(SETS)}."
        )
    return [EXPERTS[name]() for name in names]


def load_matcher(name: str, chosen: str = "") -> ImageTextMatcher | None:
    """The matcher of a name; None for "none", and for "auto" where the set `chosen` has none of its own.

    Raises:
        ValueError: there is no matcher of that name.
    """
    name = SET_MATCHERS.get(chosen, "none") if name == "auto" else name
    if name != "none" and name not in MATCHERS:
        raise ValueError(f"There is no matcher {name!r}: choose among auto, none, {', '.join(MATCHERS)}.")
    return None if name == "none" else MATCHERS[name]()
