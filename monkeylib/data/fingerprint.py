"""What a mixture trains on, by the content of its files, as the fields of a run's fingerprint.

Where the files lie and what they are called does not count. An image counts with its bytes, at the place
where a record names it. Of a dataset of millions, the images of evenly spaced records count.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monkeylib.data.readers import DatasetRecords
from monkeylib.data.records import BadRecord
from monkeylib.data.schema import DatasetEntry, MixtureFile
from monkeylib.digests import FileDigests, bytes_digest, json_digest
from monkeylib.progress import Progress
from monkeylib.prompts import PROMPTS

# Fields of a dataset that change no record: its place, and what is only checked.
_NO_CONTENT = {"name", "path", "images", "unverified", "count", "weight"}

# Records of a dataset whose images are read, at most.
MOST_RECORDS = 1_000_000
# So many files take long enough to read for a bar.
_MANY_FILES = 2_000


def mixture_fingerprint(
    file: MixtureFile,
    datasets: Sequence[DatasetRecords],
    counts: Sequence[int],
    validation_datasets: Sequence[DatasetRecords],
    validation_numbers: Sequence[np.ndarray],
) -> dict[str, Any]:
    """Return everything that decides which record comes at which position, and what it holds.

    The first time, all files and images are read, in threads. Their digests are remembered by path, size and
    time of change.

    Args:
        file: the mixture.
        datasets: its datasets.
        counts: records of each in an epoch.
        validation_datasets: datasets for validation only.
        validation_numbers: numbers of the records of each dataset that are validated with, where a share is.
    """
    images = {records.name: list(_image_files(records)) for records in (*datasets, *validation_datasets)}
    files = {records.name: records.raw.files for records in (*datasets, *validation_datasets)}
    digests = _read_digests([*_concatenated(files.values()), *_concatenated(images.values())])

    def content(records: DatasetRecords) -> dict[str, Any]:
        # A dataset of a hub has no files here: its id and its revision stand for them.
        place = {} if files[records.name] else {"path": records.entry.path}
        return {
            **_settings(records.entry),
            **place,
            "records": len(records),
            "files": json_digest([digests[path] for path in files[records.name]]),
            "images": json_digest([digests[path] for path in images[records.name]]),
            **({"images_of_every": step} if (step := _image_step(records)) > 1 else {}),
        }

    fingerprint: dict[str, Any] = {"seed": file.seed, "datasets": {}}
    for records, count in zip(datasets, counts, strict=True):
        fingerprint["datasets"][records.name] = content(records) | {"count": count}

    for records in validation_datasets:
        count = records.entry.count or len(records)
        fingerprint.setdefault("validation", {})[records.name] = content(records) | {"count": count}
    if validation_numbers:
        # Which records they are depends on which of them share an image.
        numbers = [bytes_digest(numbers.astype("<i8").tobytes()) for numbers in validation_numbers]
        fingerprint["validation"] = {"share": file.validation.share, "records": json_digest(numbers)}

    return fingerprint


def _settings(entry: DatasetEntry) -> dict[str, Any]:
    """Return the fields of a dataset that change its records, without those that have their default."""
    settings = entry.model_dump(mode="json", exclude=_NO_CONTENT, exclude_defaults=True)

    # The text of a prompt, not only its name: rewording it changes what is trained on.
    template = PROMPTS[entry.prompt]
    return settings | {
        "prompt": entry.prompt,
        "prompt_text": template.text,
        "takes_separator": template.takes_separator,
    }


def _image_files(records: DatasetRecords) -> Iterable[Path]:
    """Yield the image file of each record that names one; shards and tables hold their images themselves."""
    for number in range(0, len(records), _image_step(records)):
        try:
            record = records[number]
        except BadRecord:
            continue  # its text counts with its file
        yield from (image for image in record.images if isinstance(image, Path))


def _image_step(records: DatasetRecords) -> int:
    """Return from one record whose images are read to the next."""
    return max(1, -(-len(records) // MOST_RECORDS))


def _read_digests(paths: Sequence[Path]) -> Mapping[Path, str]:
    with Progress("files", enabled=sys.stderr.isatty() and len(paths) >= _MANY_FILES) as progress:

        def count(files: int, are_known: bool) -> None:
            if not are_known:
                progress.advance("reading the data to know it again", files)
                return

            # First of all: what is left has to be read.
            total = len(paths) - files
            progress.add_task("reading the data to know it again", total)
            if total >= _MANY_FILES and not sys.stderr.isatty():
                print(f"reading {total:,} files to know the data again", file=sys.stderr, flush=True)

        return FileDigests.in_cache().image_digests(paths, count)


def _concatenated(parts: Iterable[Sequence[Path]]) -> list[Path]:
    return [path for part in parts for path in part]
