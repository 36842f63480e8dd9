"""What is known about a picture: typed records, and their JSONL.

Boxes and points are in pixels of the picture, (0, 0) the top left corner; scores lie between 0 and 1.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from monkeylib import paths

SCHEMA_VERSION = 1

Score = Annotated[float, Field(ge=0, le=1)]
Point = tuple[float, float]
Box = tuple[float, float, float, float]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Provenance(_Strict):
    """Which expert, at which version, with which settings."""

    expert: str
    version: str
    settings: dict[str, Any] = {}


class Caption(_Strict):
    """A description of the whole picture."""

    text: str
    expert: str


class Mask(_Strict):
    """A mask as run lengths down the columns, background first (COCO's uncompressed form)."""

    size: tuple[int, int]  # height, width
    counts: tuple[int, ...]

    @model_validator(mode="after")
    def _covers_the_picture(self) -> "Mask":
        if sum(self.counts) != self.size[0] * self.size[1]:
            raise ValueError(f"run lengths sum to {sum(self.counts)}, not to {self.size[0]} x {self.size[1]}")
        return self


class Region(_Strict):
    """A part of the picture with its description.

    `kind` tells what an expert of regions described from what was described as a segment: the filter treats
    them differently. `score` is the expert's own confidence, `match` how well an image-text matching expert
    finds that the text fits the crop.
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
        xs, ys = zip(*self.quad, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


class Findings(_Strict):
    """What one expert says about one picture."""

    captions: tuple[Caption, ...] = ()
    regions: tuple[Region, ...] = ()
    lines: tuple[OcrLine, ...] = ()


class Failure(_Strict):
    """A stage that failed on a picture, and its message."""

    stage: str
    error: str


class Dropped(_Strict):
    """What the filter took out, and why."""

    text: str
    box: Box
    expert: str
    reason: str


class Record(_Strict):
    """Everything about one picture: one line of the pipeline's output.

    `detailed_caption` is the composed description, empty where nothing is known. A picture that couldn't be
    read has a failure and no size.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    width: int = 0
    height: int = 0
    original_caption: str = ""
    captions: tuple[Caption, ...] = ()
    regions: tuple[Region, ...] = ()
    lines: tuple[OcrLine, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    detailed_caption: str = ""
    provenance: tuple[Provenance, ...] = ()
    failures: tuple[Failure, ...] = ()

    def normalised(self, box: Box) -> Box:
        """A box in pixels as fractions of the picture's width and height."""
        x0, y0, x1, y1 = box
        return x0 / self.width, y0 / self.height, x1 / self.width, y1 / self.height


def _require_area(box: Box) -> None:
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"a box needs x0 < x1 and y0 < y1, got {box}")


def write_records(records: Iterable[Record], path: Path | str) -> Path:
    """Write records as JSONL, in one move."""
    path = Path(path)
    with paths.replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(record.model_dump_json() + "\n" for record in records)
    return path


def read_records(path: Path | str) -> Iterator[Record]:
    """The records of a JSONL file, in its order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no record, or was written by another version of the schema.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"There are no records at {path}: write them with captions.pipeline.run first."
        )
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            yield _record(line, f"Line {number} of {path}")


def _record(line: str, where: str) -> Record:
    try:
        fields = json.loads(line)
        version = fields.get("schema_version") if isinstance(fields, dict) else None
        if version is not None and version != SCHEMA_VERSION:
            raise ValueError(
                f"{where} has schema version {version}, this code reads {SCHEMA_VERSION}: annotate anew."
            )
        return Record.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the record"
        raise ValueError(f"{where} is no record: {place}: {first['msg']}.") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is no record: {error}.") from error
