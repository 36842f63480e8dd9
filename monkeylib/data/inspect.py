"""What a mixture holds: rows, lengths in tokens, what does not fit, what is broken."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from monkeylib.data.mixture import Mixture, Shuffle
from monkeylib.data.records import BadRecord, Record, Records
from monkeylib.processing import MonkeyProcessor

_SHOWN = 3  # records of each set kept to be looked at


@dataclass
class SetReport:
    """What was found in the rows of one set that were looked at.

    `lengths` are in tokens, images and end of text included. `truncated` rows lose turns at `max_length` or
    don't fit at all; `problems` are the sentences about bad records and images.
    """

    name: str
    rows: int
    share: float | None
    looked_at: int = 0
    lengths: list[int] = field(default_factory=list)
    truncated: int = 0
    bad_records: int = 0
    broken_images: int = 0
    problems: list[str] = field(default_factory=list)
    examples: list[Record] = field(default_factory=list)

    def row(self) -> dict[str, str | int | float | None]:
        """A line of the table."""
        middle, high = np.percentile(self.lengths, [50, 95]) if self.lengths else (None, None)
        return {
            "set": self.name,
            "rows": self.rows,
            "share": None if self.share is None else f"{100 * self.share:.1f} %",
            "seen": self.looked_at,
            "median": None if middle is None else round(middle),
            "95 %": None if high is None else round(high),
            "max": max(self.lengths, default=None),
            "cut": self.truncated,
            "bad": self.bad_records,
            "broken": self.broken_images,
        }


def inspect(
    mixture: Mixture,
    processor: MonkeyProcessor,
    max_length: int,
    limit: int | None = None,
    progress: bool = False,
) -> list[SetReport]:
    """Look at the rows of each set and of the validation rows, and open their images.

    Args:
        mixture: the sets.
        processor: counts tokens, those of images too.
        max_length: tokens of a row at most.
        limit: rows of each set, a fixed random sample; all if not given.
        progress: show a bar on standard error.
    """
    parts: list[tuple[Records, float | None]] = [
        (records, count / len(mixture)) for records, count in zip(mixture.sets, mixture.counts, strict=True)
    ]
    if mixture.validation is not None:
        parts.append((mixture.validation, None))
    reports = []
    for records, share in parts:
        report = SetReport(records.name, len(records), share)
        order = Shuffle(len(records), mixture.seed, records.name, "inspect")
        places = range(len(records) if limit is None else min(limit, len(records)))
        for place in tqdm(places, desc=records.name, disable=not progress, file=sys.stderr, leave=False):
            _look(records, order[place], report, processor, max_length)
        reports.append(report)
    return reports


def length_of(record: Record, processor: MonkeyProcessor) -> int:
    """Return the number of tokens of a record, all of its turns included."""
    images = [processor.visual_tokens()] * len(record.images)
    return len(processor.layout.encode_conversation(images, record.turns).input_ids)


def problems(reports: Sequence[SetReport]) -> list[str]:
    """The sentences about everything that is broken, set by set."""
    return [problem for report in reports for problem in report.problems]


def _look(
    records: Records, number: int, report: SetReport, processor: MonkeyProcessor, max_length: int
) -> None:
    report.looked_at += 1
    try:
        record = records[number]
    except BadRecord as error:
        report.bad_records += 1
        report.problems.append(str(error))
        return
    length = length_of(record, processor)
    report.lengths.append(length)
    if length > max_length:
        report.truncated += 1
        report.problems += _refused(record, processor, max_length)
    try:
        record.open_images()
    except BadRecord as error:
        report.broken_images += 1
        report.problems.append(str(error))
        return
    if record.images and len(report.examples) < _SHOWN:
        report.examples.append(record)


def _refused(record: Record, processor: MonkeyProcessor, max_length: int) -> list[str]:
    """Why training would refuse a record: nothing if only later turns are left out."""
    images = [processor.visual_tokens()] * len(record.images)
    try:
        processor.layout.encode_conversation(images, record.turns, max_length)
    except ValueError as error:
        return [f"{record.place}: {error}"]
    return []
