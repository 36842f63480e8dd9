"""Filtering of annotations: thresholds on scores, a smallest size of segments, and duplicate suppression.

The thresholds are those of the released data generation; the paper's appendix says that 0.5 for matching was
checked on samples judged by a chat model. They belong to BLIP-2's matching scores and to PP-OCR. Where no
matcher runs, the regions of an expert have the threshold of its own scores (`Expert.score_threshold`), if it
is known. The smallest size of segments is an addition: the paper has none, and neither has its set of experts
here. So is the rule of one name a place, for experts that name everything by a fixed list.

Duplicates are suppressed twice. `apply_filter` drops a text that is repeated at one place, as the released
code does. `group_objects` then groups the regions of different experts that show one object; it drops
nothing, and serves the composers and the checks.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeVar

from monkeylib import boxes
from monkeylib.boxes import Box
from monkeylib.captions.annotations import DroppedAnnotation, OcrLine, Provenance, Record, Region
from monkeylib.captions.models import Expert

REGION_MATCH = 0.4  # released code, dense region captions
SEGMENT_MATCH = 0.5  # released code, captions of segments
OCR_CONFIDENCE = 0.85  # released code, lines of text
SAME_CAPTION_IOU = 0.6  # released code: the same text is another object below this
ONE_NAME_IOU = 0.6  # from which two names of classes are about one object
MOST_OF_IMAGE = 0.5  # share of the image from which a region is what the image is tagged with

Overlap = Callable[[Box, Box], float]
Annotation = TypeVar("Annotation", Region, OcrLine)


class Thresholds(NamedTuple):
    """Confidences that annotations must exceed, and the overlap from which boxes are one place, all 0..1."""

    region: float = REGION_MATCH
    segment: float = SEGMENT_MATCH
    ocr: float = OCR_CONFIDENCE
    same_caption: float = SAME_CAPTION_IOU


DEFAULTS = Thresholds()
OVERLAPS: dict[str, Overlap] = {"correct": boxes.iou, "released": boxes.released_iou}


@dataclass(frozen=True)
class Filter:
    """`apply_filter` with its settings, as the pipeline runs and records it.

    Attributes:
        thresholds: see `Thresholds`; None lets everything through.
        overlap: "correct", or "released" for the overlap that the released code computes.
        smallest_segment: share of the image that the box of a segment has to cover, 0..1. A classifier of
            full images is not reliable on segments of a few pixels.
        scores: thresholds of experts' own scores, by expert.
        class_experts: experts that name everything by a fixed list: a place has one of their names.
    """

    thresholds: Thresholds | None = DEFAULTS
    overlap: Literal["correct", "released"] = "correct"
    smallest_segment: float = 0.0
    scores: Mapping[str, float] = field(default_factory=dict)
    class_experts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.overlap not in OVERLAPS:
            raise ValueError(f"The overlap is {' or '.join(OVERLAPS)}, got {self.overlap!r}.")
        if not 0 <= self.smallest_segment <= 1:
            raise ValueError(f"A segment covers 0 to 1 of the image, got {self.smallest_segment}.")

    def for_experts(self, experts: Sequence[Expert]) -> "Filter":
        """Return the filter with what the experts say of their own scores and names."""
        scores = {
            expert.name: expert.score_threshold for expert in experts if expert.score_threshold is not None
        }
        class_experts = tuple(sorted({expert.name for expert in experts if expert.names_classes}))
        return replace(self, scores={**scores, **self.scores}, class_experts=class_experts)

    def __call__(self, record: Record) -> Record:
        """Return the filtered record."""
        if self.thresholds is None:
            return record
        return apply_filter(
            record,
            self.thresholds,
            OVERLAPS[self.overlap],
            self.smallest_segment,
            self.scores,
            self.class_experts,
        )

    @property
    def provenance(self) -> Provenance:
        """The thresholds, the overlap, and what else is set."""
        thresholds = self.thresholds._asdict() if self.thresholds else None
        settings: dict[str, Any] = {"thresholds": thresholds, "overlap": self.overlap}
        if self.smallest_segment:
            settings["smallest_segment"] = self.smallest_segment
        if self.scores and self.thresholds:
            settings["scores"] = dict(sorted(self.scores.items()))
        if self.class_experts and self.thresholds:
            settings["class_experts"] = list(self.class_experts)
        return Provenance(expert="filter", version="2", settings=settings)


def apply_filter(
    record: Record,
    thresholds: Thresholds = DEFAULTS,
    overlap: Overlap = boxes.iou,
    smallest_segment: float = 0.0,
    scores: Mapping[str, float] | None = None,
    class_experts: Collection[str] = (),
) -> Record:
    """Return the record with the annotations that pass; the others are moved to `dropped`, with the reason.

    Args:
        record: the unfiltered record.
        thresholds: thresholds of confidence and overlap.
        overlap: overlap of two boxes given as fractions of the image, as in the released code.
        smallest_segment: share of the image that the box of a segment has to cover.
        scores: thresholds of experts' own scores, by expert.
        class_experts: experts whose names exclude each other at one place.
    """
    scores = scores or {}

    # Sizes first, then confidences, then names and repeated texts: a dropped annotation suppresses no other.
    regions, small = _drop_small_segments(record, smallest_segment)
    regions, weak_regions = _apply_thresholds(regions, thresholds, scores)
    regions, misnamed = _drop_other_names(record, regions, thresholds, scores, class_experts)
    lines, weak_lines = _apply_thresholds(record.lines, thresholds, scores)

    retained, repeated = suppress_same_caption(
        [*regions, *lines], (record.width, record.height), overlap, thresholds.same_caption
    )

    repetitions = [_dropped(annotation, "the same text was said of this place") for annotation in repeated]
    return record.model_copy(
        update={
            "regions": tuple(annotation for annotation in retained if isinstance(annotation, Region)),
            "lines": tuple(annotation for annotation in retained if isinstance(annotation, OcrLine)),
            "dropped": (*record.dropped, *small, *weak_regions, *misnamed, *weak_lines, *repetitions),
        },
    )


def _drop_small_segments(record: Record, smallest: float) -> tuple[list[Region], list[DroppedAnnotation]]:
    """Split the regions into those that are large enough and the segments that are too small."""
    if smallest == 0:
        return list(record.regions), []

    retained, dropped = [], []
    for region in record.regions:
        if region.kind != "segment":
            retained.append(region)
            continue

        share = boxes.area(boxes.normalise(region.box, (record.width, record.height)))
        if share < smallest:
            reason = f"it covers {share:.2%} of the image, less than {smallest:.2%}"
            dropped.append(_dropped(region, reason))
        else:
            retained.append(region)

    return retained, dropped


def _apply_thresholds(
    annotations: Sequence[Annotation], thresholds: Thresholds, scores: Mapping[str, float]
) -> tuple[list[Annotation], list[DroppedAnnotation]]:
    """Split annotations into those whose confidence exceeds its threshold, and the others."""
    retained, dropped = [], []
    for annotation in annotations:
        value = confidence(annotation)
        threshold = threshold_of(annotation, thresholds, scores)
        if isinstance(annotation, OcrLine):
            score_name = "confidence"
        else:
            score_name = "score" if annotation.match is None else "match"

        if not annotation.text.strip():
            dropped.append(_dropped(annotation, "there is no description"))
        elif value > threshold:
            retained.append(annotation)
        else:
            dropped.append(_dropped(annotation, f"{score_name} {value:.2f} is not above {threshold}"))

    return retained, dropped


def threshold_of(annotation: Region | OcrLine, thresholds: Thresholds, scores: Mapping[str, float]) -> float:
    """Return the threshold of the quantity that `confidence` returns."""
    if isinstance(annotation, OcrLine):
        return thresholds.ocr
    if annotation.match is None and annotation.expert in scores:
        return scores[annotation.expert]
    return thresholds.region if annotation.kind == "region" else thresholds.segment


def _drop_other_names(
    record: Record,
    regions: Sequence[Region],
    thresholds: Thresholds,
    scores: Mapping[str, float],
    class_experts: Collection[str],
) -> tuple[list[Region], list[DroppedAnnotation]]:
    """Split regions into those with the best name of their place and those with another one.

    Only names of classes exclude each other: a man and his shirt may have one box, but nothing is a cat and a
    dog. What fills most of the image has the name of the image's tag, if it has one.
    """

    def margin(region: Region) -> float:
        return confidence_margin(confidence(region), threshold_of(region, thresholds, scores))

    tags = [
        caption.text
        for caption in record.captions
        if caption.expert in class_experts and caption.score is not None
    ]
    better: list[Region] = []
    names: dict[int, str] = {}
    for region in sorted(regions, key=lambda region: -margin(region)):
        if region.expert not in class_experts:
            continue

        share = boxes.area(boxes.normalise(region.box, (record.width, record.height)))
        rivals = [
            other.text
            for other in better
            if boxes.iou(other.box, region.box) >= ONE_NAME_IOU and not names_agree(other.text, region.text)
        ]
        if share > MOST_OF_IMAGE:
            rivals += [tag for tag in tags if not names_agree(tag, region.text)]
        if rivals:
            names[id(region)] = rivals[0]
        else:
            better.append(region)

    dropped = [
        _dropped(region, f"its place has a surer name: {names[id(region)]}")
        for region in regions
        if id(region) in names
    ]
    return [region for region in regions if id(region) not in names], dropped


def names_agree(first: str, second: str) -> bool:
    """Return whether two names may be of one object: they share a word, or one ends with the other's.

    So do "cat" and "Egyptian cat", "bus" and "minibus".
    """
    for word in first.casefold().split():
        for other in second.casefold().split():
            if word == other or (len(min(word, other, key=len)) > 2 and _ends_with(word, other)):
                return True
    return False


def _ends_with(word: str, other: str) -> bool:
    return word.endswith(other) or other.endswith(word)


def confidence_margin(value: float, threshold: float) -> float:
    """Return how far a confidence lies above its threshold: 0 at the threshold, 1 if it is certain.

    With it, the scores of different experts can be compared, roughly.
    """
    return (value - threshold) / (1 - threshold) if threshold < 1 else 0.0


def suppress_same_caption(
    annotations: Sequence[Region | OcrLine],
    size: tuple[int, int],
    overlap: Overlap = boxes.iou,
    threshold: float = SAME_CAPTION_IOU,
) -> tuple[list[Region | OcrLine], list[Region | OcrLine]]:
    """Split annotations into new ones and those that repeat a text at its place.

    As in the released code, an annotation is compared with the first one of its text only. Regions and lines
    repeat only their own kind.

    Args:
        annotations: regions and lines.
        size: width and height of the image, of which boxes become fractions.
        overlap: overlap of two boxes.
        threshold: overlap from which a text is repeated.
    """
    own_boxes = [annotation.box for annotation in annotations]
    places = [boxes.normalise(box, size) for box in own_boxes]

    first_places: dict[tuple[type, str], Box] = {}
    retained, repeated = [], []
    for annotation, place in zip(annotations, places, strict=True):
        first = first_places.setdefault((type(annotation), annotation.text), place)
        if first is not place and overlap(first, place) >= threshold:
            repeated.append(annotation)
        else:
            retained.append(annotation)

    return retained, repeated


def confidence(annotation: Region | OcrLine) -> float:
    """Return the number that the filter compares with a threshold, 0..1.

    For a line of text, its confidence; for a region, its match if a matcher ran, else its expert's score.
    """
    if isinstance(annotation, OcrLine):
        return annotation.confidence
    return annotation.score if annotation.match is None else annotation.match


def _dropped(annotation: Region | OcrLine, reason: str) -> DroppedAnnotation:
    return DroppedAnnotation(
        text=annotation.text,
        box=annotation.box,
        expert=annotation.expert,
        reason=reason,
        kind="line" if isinstance(annotation, OcrLine) else annotation.kind,
        value=confidence(annotation),
    )


# --- objects of several experts ---------------------------------------------------------------------------

SAME_PLACE = 0.7  # IoU from which two names mean one object
SAME_NAME = 0.8  # share of the smaller box from which one name means one object
_ARTICLES = ("a ", "an ", "the ")


def group_objects(regions: Sequence[Region]) -> list[tuple[Region, ...]]:
    """Group regions into objects.

    The region with the highest confidence stands first in its group and names the object. Every other region
    of the group is the same object as that one, and no two regions of a group come from one expert. Groups
    are in the order in which their first regions stand in `regions`.
    """
    position = {id(region): index for index, region in enumerate(regions)}

    # From the most confident region down, so that the first of a group is its best.
    groups: list[list[Region]] = []
    for region in sorted(regions, key=lambda region: (-confidence(region), position[id(region)])):
        for group in groups:
            # Compared with the best region of the group only, so that chains of overlaps do not grow.
            from_other_experts = all(region.expert != member.expert for member in group)
            if from_other_experts and same_object(group[0], region):
                group.append(region)
                break
        else:
            groups.append([region])

    return [tuple(group) for group in sorted(groups, key=lambda group: position[id(group[0])])]


def same_object(first: Region, second: Region) -> bool:
    """Return whether two regions show one object: of different experts, at one place or with one name."""
    # Two regions of one expert are two objects to it.
    if first.expert == second.expert:
        return False
    if boxes.iou(first.box, second.box) >= SAME_PLACE:
        return True
    return (
        bare_name(first) == bare_name(second)
        and boxes.overlap_of_smaller(first.box, second.box) >= SAME_NAME
    )  # fmt: skip


def bare_name(region: Region) -> str:
    """Return a region's text in lower case and without article, for comparison."""
    text = region.text.strip().lower()
    for article in _ARTICLES:
        text = text.removeprefix(article)
    return text
