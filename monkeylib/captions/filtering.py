"""Which findings are kept: thresholds on scores, the size of segments, and what is said twice of one place.

The thresholds are those of the released data generation; the paper's appendix says that 0.5 for matching was
checked on samples judged by a chat model. A smallest size of segments is ours: the paper has none, and
neither has its set of experts here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from monkeylib.boxes import Box, area, iou, overlap_of_smaller, released_iou
from monkeylib.captions.annotations import DroppedAnnotation, OcrLine, Provenance, Record, Region

REGION_MATCH = 0.4  # release, dense region captions
SEGMENT_MATCH = 0.5  # release, captions of segments
OCR_CONFIDENCE = 0.85  # release, text lines
SAME_CAPTION_IOU = 0.6  # release: the same text is another object below this

Overlap = Callable[[Box, Box], float]
Found = TypeVar("Found", Region, OcrLine)


class Thresholds(NamedTuple):
    """What a finding must exceed, each in 0..1."""

    region: float = REGION_MATCH
    segment: float = SEGMENT_MATCH
    ocr: float = OCR_CONFIDENCE
    same_caption: float = SAME_CAPTION_IOU


def suppress_same_caption(
    found: Sequence[Found], overlap: Overlap = iou, threshold: float = SAME_CAPTION_IOU
) -> tuple[list[Found], list[Found]]:
    """Annotations whose text is new, or lies elsewhere than the first with that text; and those left out.

    As in the release, only the first finding of a text is compared with.
    """
    first: dict[str, Box] = {}
    kept, left_out = [], []
    for item in found:
        repeats = item.text in first and overlap(first[item.text], item.box) >= threshold
        first.setdefault(item.text, item.box)
        (left_out if repeats else kept).append(item)
    return kept, left_out


DEFAULTS = Thresholds()


def apply_filter(
    record: Record,
    thresholds: Thresholds = DEFAULTS,
    overlap: Overlap = iou,
    smallest_segment: float = 0.0,
) -> Record:
    """The record with what passes, and with what was taken out and why in `dropped`.

    A region is judged by its match where a matcher ran, else by its expert's own confidence. `overlap` sees
    boxes as fractions of the image, as the release's does. `smallest_segment` is the share of the image
    that the box of a segment has to cover.
    """
    large, small = _large_enough(record, smallest_segment)
    regions, weak = _above(large, thresholds)
    lines, unsure = _above(record.lines, thresholds)

    def fractional(first: Box, second: Box) -> float:
        return overlap(record.normalised(first), record.normalised(second))

    kept_regions, twice = suppress_same_caption(regions, fractional, thresholds.same_caption)
    kept_lines, read_twice = suppress_same_caption(lines, fractional, thresholds.same_caption)
    repeated = [_dropped(item, "the same text was said of this place") for item in (*twice, *read_twice)]
    return record.model_copy(
        update={
            "regions": tuple(kept_regions),
            "lines": tuple(kept_lines),
            "dropped": (*record.dropped, *small, *weak, *unsure, *repeated),
        }
    )


def _large_enough(record: Record, smallest: float) -> tuple[list[Region], list[DroppedAnnotation]]:
    """The regions without the segments that are too small, and those with the reason."""
    kept, dropped = [], []
    for region in record.regions:
        share = area(record.normalised(region.box))
        if region.kind == "segment" and share < smallest:
            reason = f"it covers {share:.2%} of the image, less than {smallest:.2%}"
            dropped.append(_dropped(region, reason))
        else:
            kept.append(region)
    return kept, dropped


def _above(found: Sequence[Found], thresholds: Thresholds) -> tuple[list[Found], list[DroppedAnnotation]]:
    """Annotations that exceed their threshold, and the others with the reason."""
    kept, dropped = [], []
    for item in found:
        name, value = _judged(item)
        limit = getattr(thresholds, "ocr" if isinstance(item, OcrLine) else item.kind)
        if not item.text.strip():
            dropped.append(_dropped(item, "there is no description"))
        elif value > limit:
            kept.append(item)
        else:
            dropped.append(_dropped(item, f"{name} {value:.2f} is not above {limit}"))
    return kept, dropped


def _judged(item: Region | OcrLine) -> tuple[str, float]:
    """The name and the value of what a finding is judged by."""
    if isinstance(item, OcrLine):
        return "confidence", item.confidence
    return ("score", item.score) if item.match is None else ("match", item.match)


def _dropped(item: Region | OcrLine, reason: str) -> DroppedAnnotation:
    kind = "line" if isinstance(item, OcrLine) else item.kind
    value = _judged(item)[1]
    return DroppedAnnotation(
        text=item.text, box=item.box, expert=item.expert, reason=reason, kind=kind, value=value
    )


OVERLAPS: dict[str, Overlap] = {"correct": iou, "release": released_iou}


@dataclass(frozen=True)
class Filter:
    """`apply_filter` with its settings, as the pipeline runs and records it.

    `overlap` is "correct", or "release" to reproduce what the release kept. None as `thresholds` lets
    everything through. `smallest_segment` is the share of the image that a segment's box has to cover:
    a model that names whole images names a speck by what its few pixels resemble. The paper has no such
    limit.
    """

    thresholds: Thresholds | None = DEFAULTS
    overlap: Literal["correct", "release"] = "correct"
    smallest_segment: float = 0.0

    def __post_init__(self) -> None:
        if self.overlap not in OVERLAPS:
            raise ValueError(f"The overlap is {' or '.join(OVERLAPS)}, got {self.overlap!r}.")
        if not 0 <= self.smallest_segment <= 1:
            raise ValueError(f"A segment covers 0 to 1 of the image, got {self.smallest_segment}.")

    def __call__(self, record: Record) -> Record:
        """The filtered record."""
        if self.thresholds is None:
            return record
        return apply_filter(record, self.thresholds, OVERLAPS[self.overlap], self.smallest_segment)

    @property
    def provenance(self) -> Provenance:
        """The thresholds, the overlap, and the smallest segment if there is a limit."""
        limits = self.thresholds._asdict() if self.thresholds else None
        settings: dict[str, Any] = {"thresholds": limits, "overlap": self.overlap}
        if self.smallest_segment:
            settings["smallest_segment"] = self.smallest_segment
        return Provenance(expert="filter", version="2", settings=settings)


SAME_PLACE = 0.7  # IoU from which two names mean one object
SAME_NAME = 0.8  # share of the smaller box from which one name means one object
_ARTICLES = ("a ", "an ", "the ")


def name(region: Region) -> str:
    """A region's text without article and case, for comparison."""
    text = region.text.strip().lower()
    for article in _ARTICLES:
        text = text.removeprefix(article)
    return text


def same(first: Region, second: Region) -> bool:
    """Whether two regions are one object."""
    if first.expert == second.expert:
        return False
    if iou(first.box, second.box) >= SAME_PLACE:
        return True
    return name(first) == name(second) and overlap_of_smaller(first.box, second.box) >= SAME_NAME


def worth(region: Region) -> float:
    """What a region is judged by: its match where a matcher ran, else its expert's confidence."""
    return region.score if region.match is None else region.match


def objects(regions: Sequence[Region]) -> list[tuple[Region, ...]]:
    """The regions grouped into objects, in the order of the objects' best regions in `regions`.

    The best region of an object, by `worth`, stands first and gives it its name; any other is one object with
    it, and no two of an object are of one expert.
    """
    groups: list[list[Region]] = []
    order = {id(region): place for place, region in enumerate(regions)}
    for region in sorted(regions, key=lambda region: (-worth(region), order[id(region)])):
        home = next((group for group in groups if _fits(region, group)), None)
        if home is None:
            groups.append([region])
        else:
            home.append(region)
    return [tuple(group) for group in sorted(groups, key=lambda group: order[id(group[0])])]


def _fits(region: Region, group: Sequence[Region]) -> bool:
    return same(group[0], region) and all(region.expert != other.expert for other in group)
