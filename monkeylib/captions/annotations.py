"""Typed records of an image's annotations and captions, and masks in COCO's encoding.

Boxes and points are in pixels of the image, with (0, 0) at its top left corner; scores lie between 0 and 1.
Field names are those of the files (`captions.record_files`), so they only change with `SCHEMA_VERSION`.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, computed_field, field_validator, model_validator

from monkeylib import boxes
from monkeylib.boxes import Box, Point
from monkeylib.captions.failures import RETRIED, FailureKind

SCHEMA_VERSION = 2  # of the fields below, as files hold them

Score = Annotated[float, Field(ge=0, le=1)]
Status = Literal["ok", "partial", "failed"]


class _Strict(BaseModel):
    """Base of all parts of a record: immutable, and without unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Provenance(_Strict):
    """A model that contributed to a record: its version, its settings, and the licence of its weights."""

    expert: str
    version: str
    settings: dict[str, Any] = {}
    licence: str = ""


# --- annotations of experts -------------------------------------------------------------------------------


class Caption(_Strict):
    """A caption of the full image, with its expert's confidence if it has one."""

    text: str
    expert: str
    score: Score | None = None


class Mask(_Strict):
    """A mask in COCO's encoding.

    Fields:
        size: height and width.
        counts: the run lengths as COCO's text. A list of run lengths is accepted too.
    """

    size: tuple[int, int]
    counts: str

    @classmethod
    def from_array(cls, mask: np.ndarray) -> "Mask":
        """Return the mask of a `[H, W]` array that is true inside."""
        height, width = mask.shape[:2]
        return cls(size=(height, width), counts=run_lengths_to_counts(mask_to_run_lengths(mask)))

    def array(self) -> np.ndarray:
        """Return the `[H, W]` boolean array, true inside."""
        return run_lengths_to_mask(self.size, counts_to_run_lengths(self.counts))

    @property
    def area(self) -> int:
        """Number of pixels inside."""
        return sum(counts_to_run_lengths(self.counts)[1::2])

    @field_validator("counts", mode="before")
    @classmethod
    def _encode_run_lengths(cls, counts: str | Sequence[int]) -> Any:
        return counts if isinstance(counts, str) else run_lengths_to_counts(list(counts))

    @model_validator(mode="after")
    def _covers_the_image(self) -> "Mask":
        # The runs of a mask cover each pixel once.
        pixels = sum(counts_to_run_lengths(self.counts))
        if pixels != self.size[0] * self.size[1]:
            raise ValueError(f"run lengths sum to {pixels}, not to {self.size[0]} x {self.size[1]}")
        return self


class Region(_Strict):
    """A part of the image with its caption.

    Fields:
        box: its box.
        text: its caption; empty until a segment is captioned.
        score: confidence of the expert.
        expert: name of the expert.
        kind: "region" if an expert detected and captioned it, "segment" if one expert segmented it and
            another captioned it. The filter has a threshold for each.
        match: image-text matching score of text and crop; None if no matcher ran.
        mask: mask of a segment.
    """

    box: Box
    text: str
    score: Score
    expert: str
    kind: Literal["region", "segment"] = "region"
    match: Score | None = None
    mask: Mask | None = None

    @model_validator(mode="after")
    def _has_an_area(self) -> "Region":
        x0, y0, x1, y1 = self.box
        if not (x0 < x1 and y0 < y1):
            raise ValueError(f"a box needs x0 < x1 and y0 < y1, got {self.box}")
        return self


def largest_first(regions: Sequence[Region]) -> list[Region]:
    """Return regions by the area of their masks; of equal ones the earlier first, those without one last."""
    return sorted(regions, key=lambda region: -region.mask.area if region.mask else 0)


class OcrLine(_Strict):
    """A line of text, with its corners clockwise from the top left of the text."""

    quad: tuple[Point, Point, Point, Point]
    text: str
    confidence: Score
    expert: str

    @property
    def box(self) -> Box:
        """Upright box around the corners (the released code takes two opposite corners instead)."""
        xs, ys = zip(*self.quad, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


def reading_order(lines: Sequence[OcrLine]) -> list[OcrLine]:
    """Return lines from the top of their page to its bottom, and from left to right on one level.

    The page is turned as most of the text is, in steps of 90 degrees: of an upside-down page, the top is at
    the bottom of the image.
    """
    turns: Counter[int] = Counter()
    for line in lines:
        # Long lines are surely text, and tell the direction best.
        turns[_quarter_turns(line)] += len(line.text)
    # Of two equal ones, the fewer turns.
    turn = min(turns, key=lambda turn: (-turns[turn], turn), default=0)

    upright = [[_turn_back(point, turn) for point in line.quad] for line in lines]
    return [lines[index] for index in boxes.reading_order(boxes.bounding_boxes(upright))]


def _quarter_turns(line: OcrLine) -> int:
    """Return by how many quarters a line is turned clockwise, from 0 to 3."""
    (x0, y0), (x1, y1), *_ = line.quad
    right, down = x1 - x0, y1 - y0
    if abs(right) >= abs(down):
        return 0 if right >= 0 else 2
    return 1 if down > 0 else 3


def _turn_back(point: Point, quarters: int) -> Point:
    """Turn a point counterclockwise about the corner of the image."""
    x, y = point
    return [(x, y), (y, -x), (-x, -y), (-y, x)][quarters]


class ExpertOutput(_Strict):
    """The annotations of one image by one expert."""

    captions: tuple[Caption, ...] = ()
    regions: tuple[Region, ...] = ()
    lines: tuple[OcrLine, ...] = ()


# --- additions of the pipeline ----------------------------------------------------------------------------


class Failure(_Strict):
    """A stage that failed on an image, the message, and its kind (empty in files of earlier versions)."""

    stage: str
    error: str
    kind: FailureKind | Literal[""] = ""

    @property
    def is_retried(self) -> bool:
        """Whether the next run tries again."""
        return self.kind in RETRIED


class DroppedAnnotation(_Strict):
    """An annotation that the filter dropped, with the reason.

    `value` is the score, match or confidence that decided.
    """

    text: str
    box: Box
    expert: str
    reason: str
    kind: Literal["region", "segment", "line"] = "region"
    value: Score | None = None


class GeneratedCaption(_Strict):
    """A detailed caption, and the problems of a refused draft that it replaces."""

    text: str
    refused: tuple[str, ...] = ()


class CaptionCheck(_Strict):
    """Check of a detailed caption against the rules of the prompt and the annotations.

    Fields:
        grounding: share of its content words that an expert or the original caption used.
        sentences: number of sentences.
        unsupported: the other content words.
        problems: rules of the prompt that it breaks, and the problems of a refused draft.
    """

    grounding: Score
    sentences: int
    unsupported: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class Record(_Strict):
    """Everything about one image: one line of the pipeline's output.

    `detailed_caption` is empty if there are no annotations. An image that could not be read has a failure,
    and neither size nor checksum. `notices` tell of frames that were left out, and of signs of damage.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    name: str
    sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    width: int = 0
    height: int = 0
    original_caption: str = ""
    captions: tuple[Caption, ...] = ()
    regions: tuple[Region, ...] = ()
    lines: tuple[OcrLine, ...] = ()
    dropped: tuple[DroppedAnnotation, ...] = ()
    detailed_caption: str = ""
    check: CaptionCheck | None = None
    provenance: tuple[Provenance, ...] = ()
    failures: tuple[Failure, ...] = ()
    notices: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _ignore_stored_status(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        return {name: value for name, value in fields.items() if name != "status"}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def status(self) -> Status:
        """Outcome: "ok" if every stage succeeded, "partial" if some did, "failed" without any results."""
        if not self.failures:
            return "ok"

        has_content = self.captions or self.regions or self.lines or self.detailed_caption
        return "partial" if self.sha256 and has_content else "failed"


# --- COCO's encoding of masks -----------------------------------------------------------------------------
#
# Run lengths go down the columns and alternate between background and foreground, background first. In the
# text ("counts"), lengths from the fourth on are differences to the one before the last. A number takes one
# or more characters of 6 bits: 5 bits of the number, lowest first, and a bit that says whether more follow.
# The fifth bit of the last character is the sign.

_BITS = 5
_SIGN = 1 << (_BITS - 1)
_MORE = 1 << _BITS
_FIRST_CHARACTER = 48  # "0"


def mask_to_run_lengths(mask: np.ndarray) -> tuple[int, ...]:
    """Return the run lengths of a `[H, W]` mask. The first one, of background, may be 0.

    Raises:
        ValueError: the mask does not have two dimensions, or has no pixels.
    """
    if mask.ndim != 2 or not mask.size:
        raise ValueError(f"a mask is an array of shape [H, W] with pixels, got shape {list(mask.shape)}")

    pixels = np.asarray(mask, dtype=bool).ravel(order="F")

    # A run ends wherever the next pixel differs.
    edges = np.flatnonzero(np.diff(pixels)) + 1
    lengths = np.diff(np.concatenate([[0], edges, [pixels.size]])).tolist()

    # The first run is background, so it is empty if the first pixel is foreground.
    return (0, *lengths) if pixels[0] else tuple(lengths)


def run_lengths_to_mask(size: tuple[int, int], lengths: Sequence[int]) -> np.ndarray:
    """Return the `[H, W]` boolean mask of run lengths; `size` is height, width."""
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(size, order="F")


def run_lengths_to_counts(lengths: Sequence[int]) -> str:
    """Return run lengths as COCO's text."""
    characters = []
    for index, length in enumerate(lengths):
        # Neighbouring columns have similar runs, so differences are short.
        rest = length - lengths[index - 2] if index > 2 else length
        more = True
        while more:
            # Python shifts negative numbers arithmetically, so their sign survives.
            group = rest & (_MORE - 1)
            rest >>= _BITS

            # It was the last group if its sign bit alone says what remains: 0, or -1 for negative numbers.
            more = rest != (-1 if group & _SIGN else 0)
            characters.append(chr(_FIRST_CHARACTER + group + (_MORE if more else 0)))

    return "".join(characters)


def counts_to_run_lengths(text: str) -> tuple[int, ...]:
    """Return the run lengths of COCO's text.

    Raises:
        ValueError: the text is not in COCO's encoding.
    """
    lengths: list[int] = []
    value, shift = 0, 0
    for character in text:
        group = ord(character) - _FIRST_CHARACTER
        if not 0 <= group < 2 * _MORE:
            raise ValueError(f"{character!r} doesn't occur in the run lengths of a mask (COCO's counts)")

        value |= (group & (_MORE - 1)) << shift
        shift += _BITS
        if group & _MORE:
            continue

        # Extend the sign bit of the last group.
        if group & _SIGN:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value, shift = 0, 0

    if shift or min(lengths, default=0) < 0:
        raise ValueError("the run lengths of a mask (COCO's counts) are cut off or wrong")
    return tuple(lengths)
