"""What is known about an image: typed records, version 2 of their schema.

Boxes and points are in pixels of the image, (0, 0) the top left corner; scores lie between 0 and 1. The
files of records, JSONL and parquet, are in `captions.files`.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, computed_field, field_validator, model_validator

from monkeylib.boxes import Box, Point, bounding_box

_BITS, _SIGN, _MORE, _FIRST = 5, 16, 32, 48


def run_lengths(mask: np.ndarray) -> tuple[int, ...]:
    """Lengths of the runs of a `[H, W]` mask, down the columns, the first one of background (0 if none).

    Raises:
        ValueError: the mask has not two dimensions, or no pixels.
    """
    if mask.ndim != 2 or not mask.size:
        raise ValueError(f"a mask is an array of shape [H, W] with pixels, got shape {list(mask.shape)}")
    cells = np.asarray(mask, dtype=bool).ravel(order="F")
    edges = np.flatnonzero(np.diff(cells)) + 1
    lengths = np.diff(np.concatenate([[0], edges, [cells.size]])).tolist()
    return (0, *lengths) if cells[0] else tuple(lengths)


def array(size: tuple[int, int], lengths: Sequence[int]) -> np.ndarray:
    """The `[H, W]` boolean mask of run lengths; `size` is height, width."""
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(size, order="F")


def to_text(lengths: Sequence[int]) -> str:
    """Run lengths as COCO's text."""
    characters = []
    for index, length in enumerate(lengths):
        rest = length - lengths[index - 2] if index > 2 else length
        while True:
            group, rest = rest & (2**_BITS - 1), rest >> _BITS
            done = rest == (-1 if group & _SIGN else 0)
            characters.append(chr(_FIRST + group + (0 if done else _MORE)))
            if done:
                break
    return "".join(characters)


def from_text(text: str) -> tuple[int, ...]:
    """The run lengths of COCO's text.

    Raises:
        ValueError: the text is none of COCO's.
    """
    lengths: list[int] = []
    value, shift = 0, 0
    for character in text:
        group = ord(character) - _FIRST
        if not 0 <= group < 2 * _MORE:
            raise ValueError(f"{character!r} doesn't occur in the run lengths of a mask (COCO's counts)")
        value |= (group & (2**_BITS - 1)) << shift
        shift += _BITS
        if group & _MORE:
            continue
        if group & _SIGN:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value, shift = 0, 0
    if shift or min(lengths, default=0) < 0:
        raise ValueError("the run lengths of a mask (COCO's counts) are cut off or wrong")
    return tuple(lengths)


SCHEMA_VERSION = 2

Score = Annotated[float, Field(ge=0, le=1)]
Status = Literal["ok", "partial", "failed"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Provenance(_Strict):
    """Which expert, at which version, with which settings, and the licence of its weights."""

    expert: str
    version: str
    settings: dict[str, Any] = {}
    licence: str = ""


class Caption(_Strict):
    """A description of the whole image, with its expert's confidence if it has one."""

    text: str
    expert: str
    score: Score | None = None


class Mask(_Strict):
    """A mask in COCO's form: `size` is height and width, `counts` the text of its run lengths.

    Run lengths themselves may be given as `counts` too.
    """

    size: tuple[int, int]
    counts: str

    @classmethod
    def of(cls, mask: np.ndarray) -> "Mask":
        """The mask of a `[H, W]` array, true inside."""
        return cls(size=(mask.shape[0], mask.shape[1]), counts=to_text(run_lengths(mask)))

    def array(self) -> np.ndarray:
        """The `[H, W]` boolean array, true inside."""
        return array(self.size, from_text(self.counts))

    @property
    def area(self) -> int:
        """Pixels inside."""
        return sum(from_text(self.counts)[1::2])

    @field_validator("counts", mode="before")
    @classmethod
    def _text_of_lengths(cls, counts: str | Sequence[int]) -> Any:
        return counts if isinstance(counts, str) else to_text(list(counts))

    @model_validator(mode="after")
    def _covers_the_image(self) -> "Mask":
        pixels = sum(from_text(self.counts))
        if pixels != self.size[0] * self.size[1]:
            raise ValueError(f"run lengths sum to {pixels}, not to {self.size[0]} x {self.size[1]}")
        return self


class Region(_Strict):
    """A part of the image with its description; empty until a segment is described.

    `kind` tells what an expert of regions described from what was described as a segment: the filter treats
    them differently. `score` is the expert's own confidence, `match` how well a matcher finds that the text
    fits the crop.
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
        _require_area(self.box)
        return self


class OcrLine(_Strict):
    """A line of text, with its corners clockwise from the top left of the text."""

    quad: tuple[Point, Point, Point, Point]
    text: str
    confidence: Score
    expert: str

    @property
    def box(self) -> Box:
        """The upright box around the corners (the release takes two opposite corners instead)."""
        return bounding_box(self.quad)


class ExpertOutput(_Strict):
    """What one expert says about one image."""

    captions: tuple[Caption, ...] = ()
    regions: tuple[Region, ...] = ()
    lines: tuple[OcrLine, ...] = ()


class Failure(_Strict):
    """A stage that failed on an image, and its message."""

    stage: str
    error: str


class DroppedAnnotation(_Strict):
    """What the filter took out, and why; `value` is the score, match or confidence it was judged by."""

    text: str
    box: Box
    expert: str
    reason: str
    kind: Literal["region", "segment", "line"] = "region"
    value: Score | None = None


class GeneratedCaption(_Strict):
    """A description, and what was wrong with a draft that it took the place of."""

    text: str
    refused: tuple[str, ...] = ()


class CaptionCheck(_Strict):
    """How the description fares against what was asked of it, and against what was seen.

    `grounding` is the share of its content words that an expert or the original caption said, `unsupported`
    are the others, `problems` what breaks the rules of the prompt, in words, and what was wrong with a draft
    that was refused.
    """

    grounding: Score
    sentences: int
    unsupported: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class Record(_Strict):
    """Everything about one image: one line of the pipeline's output.

    `detailed_caption` is the composed description, empty where nothing is known. An image that couldn't be
    read has a failure and no size.
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

    @model_validator(mode="before")
    @classmethod
    def _status_is_computed(cls, fields: Any) -> Any:
        return {k: v for k, v in fields.items() if k != "status"} if isinstance(fields, dict) else fields

    @computed_field  # type: ignore[prop-decorator]
    @property
    def status(self) -> Status:
        """Whether every stage succeeded ("ok"), some did ("partial"), or nothing is known ("failed")."""
        if not self.failures:
            return "ok"
        known = self.captions or self.regions or self.lines or self.detailed_caption
        return "partial" if self.sha256 and known else "failed"

    def normalised(self, box: Box) -> Box:
        """A box in pixels as fractions of the image's width and height."""
        x0, y0, x1, y1 = box
        return x0 / self.width, y0 / self.height, x1 / self.width, y1 / self.height


def _require_area(box: Box) -> None:
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"a box needs x0 < x1 and y0 < y1, got {box}")
