"""How many statements of the caption experts are right, by expert and threshold, on labelled photographs.

    python -m monkeylib.experiments.statement_accuracy FOLDER

annotates the photographs, which are not part of this repository (`labels.json` names the package, the file
and its SHA-256 of each), and writes the unfiltered annotations to `data/results/photographs/records.jsonl`.
The labels and these records are committed: judging statements and choosing thresholds takes seconds. Without
a folder, only that is done, and the tables are written.

A region or segment is right if an object of its name, not yet taken by a surer statement of the same expert,
covers the same place (IoU 0.5 or more; in a crowd, half of its box). A tag is right if the photograph has
that name. A line of text is right if it is a label, or a run of its words; case, blanks and the signs × and x
make no difference.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from monkeylib import boxes, resources, tables
from monkeylib.boxes import Box
from monkeylib.captions import pipeline
from monkeylib.captions.annotations import Caption, OcrLine, Record, Region
from monkeylib.captions.experts import load_experts, smallest_segment
from monkeylib.captions.experts.ocr import PpOcr
from monkeylib.captions.experts.segments import tagged_segments
from monkeylib.captions.experts.tagger import Tagger
from monkeylib.captions.experts.yolox import YoloxRegions
from monkeylib.captions.filtering import OCR_CONFIDENCE, REGION_MATCH, SEGMENT_MATCH
from monkeylib.captions.record_files import read_records, write_records
from monkeylib.digests import file_digest
from monkeylib.image_sources import SUFFIXES
from monkeylib.images import open_image
from monkeylib.tables import Row

SAME_PLACE = 0.5  # IoU of a region and its object; in a crowd, the share of the region inside it
PRECISION = 0.85  # share of the statements above a calibrated threshold that has to be right
THRESHOLDS = (0.25, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)  # of the table by threshold
SIDE = 1024  # pixels of the longer side of a photograph that is annotated
SEGMENT_SCORE = 0.25  # segments with a less sure tag, or too small for the filter, are not labelled

# Thresholds before the calibration: the release's for its matching scores and for PP-OCR, which the scores of
# all experts were compared with, and the tagger's own.
SEGMENTS = tagged_segments().name
BEFORE = {
    YoloxRegions.name: REGION_MATCH,
    Tagger.name: 0.3,
    SEGMENTS: SEGMENT_MATCH,
    PpOcr.name: OCR_CONFIDENCE,
}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelledObject(_Section):
    """An object, or a crowd of them: its names and its box in fractions of the image."""

    names: tuple[str, ...]
    box: tuple[float, float, float, float]
    many: bool = False


class PhotographLabels(_Section):
    """What is on a photograph; see the rule in `labels.json`."""

    name: str
    source: str
    file: str
    sha256: str
    objects: tuple[LabelledObject, ...] = ()
    names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()
    unclear_segments: tuple[str, ...] = ()


class LabelFile(_Section):
    """The labels of all photographs, with who labelled them, when, and by which rule."""

    labelled_by: str
    labelled_on: str
    rule: str
    photographs: tuple[PhotographLabels, ...]


class Statement(NamedTuple):
    """A statement of an expert, and whether it is right."""

    photograph: str
    expert: str
    text: str
    score: float
    right: bool


def folder() -> Path:
    """Return the folder of the committed labels and annotations."""
    return resources.REPOSITORY / "data" / "results" / "photographs"


def read_labels(path: Path | None = None) -> LabelFile:
    """Return the labels."""
    path = path or folder() / "labels.json"
    return LabelFile.model_validate_json(path.read_text(encoding="utf-8"))


def read_statements() -> list[Statement]:
    """Return the judged statements of the committed annotations."""
    labels = {item.name: item for item in read_labels().photographs}
    statements: list[Statement] = []
    for record in read_records(folder() / "records.jsonl"):
        statements += judge(record, labels[record.name])
    return statements


# --- judging ----------------------------------------------------------------------------------------------


def judge(record: Record, labels: PhotographLabels) -> list[Statement]:
    """Return the statements of a record, without unclear ones, each with whether it is right."""
    statements = []
    for caption in record.captions:
        statements.append((caption.expert, caption.text, caption.score or 0.0, caption.text in labels.names))

    # The surest first: an object counts once for each expert.
    free = {region.expert: list(labels.objects) for region in record.regions}
    for region in sorted(record.regions, key=lambda region: -region.score):
        place = boxes.normalise(region.box, (record.width, record.height))
        match = _find_object(region, place, free[region.expert])
        if match and not match.many:
            free[region.expert].remove(match)
        statements.append((region.expert, region.text, region.score, match is not None))

    for line in record.lines:
        statements.append((line.expert, line.text, line.confidence, _is_in_texts(line, labels.texts)))

    return [
        Statement(record.name, expert, text, score, right)
        for expert, text, score, right in statements
        if text not in (labels.unclear_segments if expert == SEGMENTS else labels.unclear)
    ]


def _find_object(region: Region, place: Box, objects: Iterable[LabelledObject]) -> LabelledObject | None:
    """Return the object that a region shows, a single one before a crowd."""
    candidates = []
    for item in objects:
        overlap = boxes.overlap_of_smaller(place, item.box) if item.many else boxes.iou(place, item.box)
        if region.text in item.names and overlap >= SAME_PLACE:
            candidates.append((item.many, -overlap, item))
    return min(candidates, key=lambda candidate: candidate[:2])[2] if candidates else None


def _is_in_texts(line: OcrLine, texts: Sequence[str]) -> bool:
    wanted = _letters(line.text)
    for text in texts:
        words = text.split()
        for start in range(len(words)):
            for end in range(start + 1, len(words) + 1):
                if _letters("".join(words[start:end])) == wanted:
                    return True
    return False


def _letters(text: str) -> str:
    return "".join(text.casefold().replace("×", "x").split())


# --- thresholds -------------------------------------------------------------------------------------------


def choose_threshold(statements: Iterable[Statement], precision: float = PRECISION) -> float:
    """Return the lowest threshold, in steps of 0.05, above which a share of the statements is right.

    It is 1 if there is none.
    """
    statements = list(statements)
    for step in range(20):
        threshold = step / 20
        retained = [statement.right for statement in statements if statement.score > threshold]
        if retained and sum(retained) >= precision * len(retained):
            return threshold
    return 1.0


def cross_fitted_thresholds(statements: Sequence[Statement]) -> dict[tuple[str, str], float]:
    """Return thresholds by expert and photograph, each chosen on the half without that photograph.

    The halves are every other photograph, by name.
    """
    names = sorted({statement.photograph for statement in statements})
    half = {name: number % 2 for number, name in enumerate(names)}

    thresholds = {}
    for expert in {statement.expert for statement in statements}:
        for tested in (0, 1):
            fitted = [s for s in statements if s.expert == expert and half[s.photograph] != tested]
            value = choose_threshold(fitted)
            thresholds |= {(expert, name): value for name in names if half[name] == tested}
    return thresholds


def count_statements(statements: Sequence[Statement]) -> list[Row]:
    """Count right and wrong statements by expert and threshold.

    Returns:
        A row for each expert and threshold: without one; before the calibration (`BEFORE`); after it, chosen
        on all photographs; and cross-fitted, where each half is judged by the threshold of the other.
    """
    crossed = cross_fitted_thresholds(statements)
    rows: list[Row] = []
    for expert in BEFORE:
        own = [statement for statement in statements if statement.expert == expert]
        after = choose_threshold(own)

        settings: list[tuple[str, float | str, list[Statement]]] = [
            ("none", 0.0, own),
            ("before", BEFORE[expert], _above(own, BEFORE[expert])),
            ("after", after, _above(own, after)),
        ]
        used = {crossed[expert, statement.photograph] for statement in own}
        retained = [s for s in own if s.score > crossed[expert, s.photograph]]
        settings.append(("cross-fitted", " and ".join(f"{value:g}" for value in sorted(used)), retained))
        for name, threshold, selected in settings:
            rows.append({"expert": expert, "calibration": name, "threshold": threshold, **_count(selected)})
    return rows


def count_by_threshold(
    statements: Sequence[Statement], thresholds: Sequence[float] = THRESHOLDS
) -> list[Row]:
    """Count right and wrong statements by expert at each of several thresholds."""
    rows: list[Row] = []
    for expert in BEFORE:
        own = [statement for statement in statements if statement.expert == expert]
        for threshold in thresholds:
            rows.append({"expert": expert, "threshold": threshold, **_count(_above(own, threshold))})
    return rows


def _above(statements: Iterable[Statement], threshold: float) -> list[Statement]:
    return [statement for statement in statements if statement.score > threshold]


def _count(statements: Sequence[Statement]) -> Mapping[str, int | float | str]:
    right = sum(statement.right for statement in statements)
    share = round(right / len(statements), 3) if statements else ""
    return {"statements": len(statements), "right": right, "wrong": len(statements) - right, "share": share}


def write_tables(profile: str = resources.COMMITTED_PROFILE) -> list[Path]:
    """Write both tables of the committed annotations, and return their files."""
    statements = read_statements()
    return [
        tables.write_table(count_statements(statements), "captions_statements", profile),
        tables.write_table(count_by_threshold(statements), "captions_thresholds", profile),
    ]


# --- annotations ------------------------------------------------------------------------------------------


def annotate(files: Mapping[str, Path], out: Path) -> list[Record]:
    """Annotate photographs with the tagger, YOLOX, tagged segments and PP-OCR; return unfiltered records.

    They have all statements but for segments that are too small or unsure to be labelled.

    Args:
        files: the file of each photograph by its name.
        out: folder of the run.
    """
    images = {}
    for name, file in sorted(files.items()):
        image = open_image(file)
        image.thumbnail((SIDE, SIDE))
        images[name] = image

    inputs = [pipeline.InputImage(image, name) for name, image in images.items()]
    experts = load_experts(["pp-ocr", "yolox", "tagged-segments"])
    records = pipeline.caption_images(inputs, experts, out, thresholds=None, fresh=True)

    # Every tag, however unlikely.
    tagger = Tagger(minimum=0.0)
    annotations = []
    for record, (tag, probability) in zip(records, tagger.tags(list(images.values())), strict=True):
        caption = Caption(text=tag, score=probability, expert=tagger.name)
        regions = tuple(region for region in record.regions if not _is_unlabelled(region, record))
        regions = tuple(region.model_copy(update={"mask": None}) for region in regions)
        changes = {"captions": (caption,), "regions": regions, "detailed_caption": "", "check": None}
        annotations.append(record.model_copy(update=changes))
    return annotations


def _is_unlabelled(region: Region, record: Record) -> bool:
    """Return whether a segment is too small or too unsure to be labelled."""
    share = boxes.area(boxes.normalise(region.box, (record.width, record.height)))
    return region.expert == SEGMENTS and (
        region.score <= SEGMENT_SCORE or share < smallest_segment("demonstration")
    )


def find_photographs(root: Path, labels: LabelFile) -> dict[str, Path]:
    """Return the files below a folder that are the labelled photographs, by name.

    Raises:
        FileNotFoundError: some are missing; the message names the first and its package.
    """
    digests = {item.sha256: item for item in labels.photographs}
    files = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            if item := digests.get(file_digest(path)):
                files[item.name] = path

    missing = [item for item in labels.photographs if item.name not in files]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(labels.photographs)} photographs are not below {root}, such as "
            f"{missing[0].file} of {missing[0].source}: unpack these packages there"
        )
    return files


def main(arguments: Sequence[str] | None = None) -> None:
    """Annotate the photographs, write the records, and the tables."""
    parser = argparse.ArgumentParser(description="Annotate the labelled photographs by the small experts.")
    parser.add_argument("folder", type=Path, nargs="?", help="folder with the unpacked packages")
    options = parser.parse_args(arguments)

    if options.folder:
        try:
            files = find_photographs(options.folder, read_labels())
        except FileNotFoundError as error:
            parser.error(str(error))
        records = annotate(files, resources.cache() / "photographs")
        write_records(records, folder() / "records.jsonl")
    for path in write_tables():
        print(f"wrote {resources.display_path(path)}")


if __name__ == "__main__":
    main()
