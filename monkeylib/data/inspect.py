"""Inspection of a mixture: what its files are taken for, a few records as the model will read them, lengths
in tokens, records that are too long, broken records and images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from monkeylib.data.lost_characters import LostCharacters
from monkeylib.data.mixture import Mixture, describe_text_only
from monkeylib.data.permutation import RandomPermutation
from monkeylib.data.readers import describe
from monkeylib.data.records import BadRecord, Record, Records
from monkeylib.errors import beginning
from monkeylib.messages import ImageSource
from monkeylib.processing import MonkeyProcessor
from monkeylib.progress import Progress

_EXAMPLES = 3  # records of each dataset for the contact sheet, and as the model reads them
_SHOWN = 300  # characters of a prompt or an answer


@dataclass
class DatasetReport:
    """Statistics and problems of the inspected records of one dataset.

    Attributes:
        name: name of the dataset.
        rows: number of its records.
        share: its share of an epoch, None for validation.
        inspected: number of records that were inspected.
        lengths: lengths in tokens, images and end of text included.
        truncated: number of records that lose turns at the maximum length, or do not fit at all.
        bad_records: number of records that cannot be read.
        broken_images: number of records with an image that cannot be opened.
        problems: a message for each of these.
        num_with_images: number of good records that have images.
        examples: a few good records, with images where there are some.
        first_records: the first good records of the sample.
        notes: what reading records has changed, and for how many.
        repeated_ids: number of inspected records with the id of an earlier one.
        kind: what the dataset was taken for, empty for validation.
        left_out: which records its format leaves out, empty if none.
        lost: characters that the tokenizer has no token for.
    """

    name: str
    rows: int
    share: float | None
    inspected: int = 0
    lengths: list[int] = field(default_factory=list)
    truncated: int = 0
    bad_records: int = 0
    broken_images: int = 0
    problems: list[str] = field(default_factory=list)
    num_with_images: int = 0
    examples: list[Record] = field(default_factory=list)
    first_records: list[Record] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    repeated_ids: int = 0
    kind: str = ""
    left_out: str = ""
    lost: LostCharacters | None = None

    def remarks(self) -> list[str]:
        """Return sentences about the dataset, apart from its problems."""
        remarks = [f"{self.name}: {self.kind}"] if self.kind else []
        if self.left_out:
            remarks.append(f"{self.name}: {self.left_out}")
        num_good = self.inspected - self.bad_records
        if num_good and not self.num_with_images:
            remarks.append(f"{self.name}: {describe_text_only(num_good, num_good == self.rows)}")
        remarks += [f"{self.name}: of {count} records, {note}" for note, count in self.notes.items()]
        if self.repeated_ids:
            remarks.append(
                f"{self.name}: {self.repeated_ids} records have the id of another one; all of them are read"
            )
        if self.lost is not None and (sentence := self.lost.describe()):
            remarks.append(f"{self.name}: {sentence}")
        return remarks

    def row(self) -> dict[str, str | int | float | None]:
        """Return the report as a row of a table."""
        median, high = np.percentile(self.lengths, [50, 95]) if self.lengths else (None, None)

        return {
            "dataset": self.name,
            "rows": self.rows,
            "share": None if self.share is None else f"{100 * self.share:.1f} %",
            "read": self.inspected,
            "median": None if median is None else round(median),
            "95 %": None if high is None else round(high),
            "max": max(self.lengths, default=None),
            "cut": self.truncated,
            "bad": self.bad_records,
            "broken": self.broken_images,
        }


def inspect_mixture(
    mixture: Mixture,
    processor: MonkeyProcessor,
    max_length: int,
    limit: int | None = None,
    progress: bool = False,
) -> list[DatasetReport]:
    """Read the records of each dataset and of the validation split, and open their images.

    Args:
        mixture: the datasets.
        processor: counts tokens, those of images included.
        max_length: maximum number of tokens of a record.
        limit: number of records of each dataset, a fixed random sample; all if not given.
        progress: report progress on standard error.
    """
    # Each dataset with its share of an epoch; validation records are not part of one.
    parts: list[tuple[Records, float | None]] = [
        (records, count / len(mixture)) for records, count in zip(mixture.sets, mixture.counts, strict=True)
    ]
    if mixture.validation is not None:
        parts.append((mixture.validation, None))

    datasets = {dataset.name: dataset for dataset in mixture.datasets}
    reports = []
    for records, share in parts:
        report = DatasetReport(records.name, len(records), share, lost=LostCharacters(processor.layout))
        if records.name in datasets:
            report.kind = describe(datasets[records.name])
            report.left_out = datasets[records.name].describe_left_out()
        ids: set[str] = set()

        # Its own key: the sample does not depend on the order of training.
        permutation = RandomPermutation(len(records), mixture.seed, records.name, "inspect")
        indices = range(len(records) if limit is None else min(limit, len(records)))

        with Progress("records", enabled=progress) as bars:
            bars.add_task(records.name, len(indices))
            for index in indices:
                _inspect_record(records, permutation[index], report, ids, processor, max_length)
                bars.advance(records.name)

        reports.append(report)

    return reports


def list_problems(reports: Sequence[DatasetReport]) -> list[str]:
    """Return all error messages, dataset by dataset."""
    return [problem for report in reports for problem in report.problems]


def count_tokens(record: Record, processor: MonkeyProcessor) -> int:
    """Return the number of tokens of a record, all of its turns included."""
    turns = record.layout_turns(_visual_tokens(record, processor))
    return len(processor.layout.encode_conversation((), turns).input_ids)


def _visual_tokens(record: Record, processor: MonkeyProcessor) -> list[int]:
    """Return the number of visual tokens of each image of a record.

    Raises:
        BadRecord: it depends on the size of an image, which cannot be read.
    """
    return [processor.visual_tokens(grid) for grid in record.select_grids(processor.image_processor)]


def show_record(record: Record, processor: MonkeyProcessor) -> str:
    """Return a record as the model reads it: images at their places, and its labels between « and ».

    Texts are decoded from their tokens, so what the tokenizer loses is lost here, too.
    """
    layout = processor.layout

    def read(ids: list[int]) -> str:
        return layout.tokenizer.decode(ids).replace("\n", "⏎")

    images = _visual_tokens(record, processor)
    names = iter([_image_name(image) for image in record.images])
    shown = read(layout.prefix_ids())
    for parts, answer in record.layout_turns(images):
        for part in parts:
            if isinstance(part, str):
                shown += beginning(read(layout.text_ids(part)), _SHOWN)
            else:
                shown += f"<{next(names)}: {part} tokens>"
        shown += f"«{beginning(read(layout.answer_ids(answer)), _SHOWN)}»"

    return shown


def _image_name(image: ImageSource) -> str:
    if isinstance(image, Path):
        return image.name
    is_data = isinstance(image, str) and image.startswith("data:")
    return "image" if is_data or not isinstance(image, str) else image


def _inspect_record(
    records: Records,
    number: int,
    report: DatasetReport,
    ids: set[str],
    processor: MonkeyProcessor,
    max_length: int,
) -> None:
    """Add a record to the report of its dataset."""
    report.inspected += 1
    try:
        record = records[number]
    except BadRecord as error:
        report.bad_records += 1
        report.problems.append(str(error))
        return

    report.num_with_images += bool(record.images)
    if report.lost is not None:
        report.lost.add_record(record)
    if record.note:
        report.notes[record.note] += 1
    report.repeated_ids += record.id in ids
    ids.add(record.id)

    # An automatic grid depends on the sizes of the images, which may be broken.
    try:
        length = count_tokens(record, processor)
    except BadRecord as error:
        report.broken_images += 1
        report.problems.append(str(error))
        return

    # A record that is too long is reported, and still counts among the lengths.
    report.lengths.append(length)
    if length > max_length:
        report.truncated += 1
        report.problems += _length_problems(record, processor, max_length)

    try:
        record.open_images()
    except BadRecord as error:
        report.broken_images += 1
        report.problems.append(str(error))
        return

    if len(report.first_records) < _EXAMPLES:
        report.first_records.append(record)
    # Text-only records have nothing to show on a contact sheet.
    if record.images and len(report.examples) < _EXAMPLES:
        report.examples.append(record)


def _length_problems(record: Record, processor: MonkeyProcessor, max_length: int) -> list[str]:
    """Return why training would refuse a record; nothing if it only loses later turns."""
    turns = record.layout_turns(_visual_tokens(record, processor))
    try:
        processor.layout.encode_conversation((), turns, max_length)
    except ValueError as error:
        return [f"{record.location}: {error}"]

    return []
