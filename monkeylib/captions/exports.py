"""Captions as training data: a selection of the records in a format that trainers read, with a data card.

An export is a folder of its own with

* the data: `captions.json` (LLaVA), `captions.jsonl` (messages), `captions-*.tar` (WebDataset),
  `captions-*.parquet`, or `detailed_caption.json` as the released pipeline writes it,
* `mixture.yaml`, which `monkeylib train --data` reads,
* `README.md`, the data card: counts, what was left out and why, thresholds, versions and licences,
* `run.json`, which lists all of these (see `runs.RunFolder`).

Records and images are streamed: memory doesn't grow with their number.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from monkeylib import resources
from monkeylib.captions.annotations import Provenance, Record, Status
from monkeylib.captions.confirmation import Confirmation, count_confirmed
from monkeylib.captions.image_containers import StoredImage
from monkeylib.captions.input_images import InputImage
from monkeylib.captions.reviews import Reviews, find_review
from monkeylib.captions.totals import filter_settings
from monkeylib.data import writers
from monkeylib.data.records import Record as TrainingRecord
from monkeylib.errors import choose
from monkeylib.image_sources import SUFFIXES
from monkeylib.messages import ImageSource
from monkeylib.prompts import get_template
from monkeylib.runs import RunFolder

Format = Literal["llava", "messages", "webdataset", "parquet", "released"]
FORMATS: tuple[Format, ...] = get_args(Format)

MIXTURE, CARD = "mixture.yaml", "README.md"
SHARD_SIZE = 1000  # images of a shard or parquet file
_PROMPT = "detailed_caption"

_FILES = {
    "llava": "captions.json",
    "messages": "captions.jsonl",
    "webdataset": "captions-{:06d}.tar",
    "parquet": "captions-{:06d}.parquet",
    "released": "detailed_caption.json",
}
# How a mixture reads each. All but the released one hold the prompt itself.
_ENTRIES: dict[str, dict[str, Any]] = {
    "llava": {"format": "llava", "prompt": "plain"},
    "messages": {"format": "messages", "prompt": "plain"},
    "webdataset": {"format": "webdataset", "prompt": "plain"},
    "parquet": {"format": "messages", "prompt": "plain"},
    "released": {
        "format": "evaluation",
        "prompt": _PROMPT,
        "columns": {"image": "image", "answer": "detailed_caption", "id": "img_id"},
    },
}


@dataclass(frozen=True)
class Selection:
    """Which captions are exported.

    Attributes:
        statuses: statuses of the records.
        with_problems: also captions that failed a check.
        grounding: least share of a caption's content words that have a source, 0..1; see `checks`.
        confirmed: least share of the experts' statements that a second expert confirms, 0..1; see
            `confirmation`. Above 0, images without statements are left out.
        reviewed: only captions that a person accepted or corrected.
    """

    statuses: tuple[Status, ...] = ("ok",)
    with_problems: bool = False
    grounding: float = 0.0
    confirmed: float = 0.0
    reviewed: bool = False

    def __post_init__(self) -> None:
        for name in ("grounding", "confirmed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"The least share of {name} lies between 0 and 1, got {getattr(self, name)}."
                )

    def reason_left_out(self, record: Record, confirmation: Confirmation) -> str:
        """Return why a record is left out; empty if it is exported."""
        if record.status not in self.statuses:
            return f"with the status {record.status}"
        if not record.detailed_caption.strip():
            return "without a caption"
        if record.check and record.check.problems and not self.with_problems:
            return "whose caption failed its checks"
        if record.check and record.check.grounding < self.grounding:
            return f"with less than {self.grounding:.0%} of the words grounded"
        if self.confirmed and (confirmation.share or 0.0) < self.confirmed:
            return f"with less than {self.confirmed:.0%} of the statements confirmed"
        return ""


@dataclass
class ExportStatistics:
    """What an export holds, and what it leaves out.

    Attributes:
        records: records that were read.
        exported: captions that were written.
        left_out: number of records that were left out, by the reason.
        words: words of the exported captions.
        accepted, corrected: exported captions that a person accepted or corrected.
        with_original: exported images that came with a caption of their own.
        grounding: sum of the groundings of the exported captions.
        confirmation: statements behind the exported captions.
        provenance: models behind them, by name.
    """

    records: int = 0
    exported: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    words: int = 0
    accepted: int = 0
    corrected: int = 0
    with_original: int = 0
    grounding: float = 0.0
    confirmation: Confirmation = Confirmation()
    provenance: dict[str, Provenance] = field(default_factory=dict)

    def describe_left_out(self) -> str:
        """Return how many records were left out, and why, in words."""
        return ", ".join(f"{count} {reason}" for reason, count in self.left_out.most_common())


def export_captions(
    records: Iterable[Record],
    images: Iterable[InputImage],
    out: Path | str,
    format: Format,
    selection: Selection = Selection(),
    *,
    reviews: Reviews | None = None,
    shard_size: int = SHARD_SIZE,
) -> ExportStatistics:
    """Write captions as training data into the folder `out`; an earlier export there is replaced.

    Args:
        records: records of the caption pipeline.
        images: the image of each record, in the same order.
        out: the folder; new, empty, or of an earlier export.
        format: a format of `FORMATS`.
        selection: which captions are exported.
        reviews: reviews by people: rejected captions are left out, corrected ones take the place of the
            generated ones. What a person accepted or corrected is exported whatever its checks say.
        shard_size: images of a tar or parquet file.

    Raises:
        FileExistsError: the folder holds files of somebody else.
        BlockingIOError: another process exports into it.
        ValueError: no such format, no caption is selected, or there is not one image for each record.
    """
    choose("format", format, FORMATS)
    statistics = ExportStatistics()
    selected = _select(records, images, selection, reviews or {}, statistics)

    first = next(selected, None)
    if first is None:
        raise ValueError(
            f"None of the {statistics.records} records can be exported: {statistics.describe_left_out()}."
        )

    settings = {"format": format, "selection": asdict(selection), "reviews": len(reviews or {})}
    with (
        RunFolder.open(out, "caption export", settings, fresh=True) as folder,
        resources.scratch_folder(folder.path) as scratch,
    ):
        # An earlier export stays until this one is complete.
        files = _write_data(scratch, chain([first], selected), format, shard_size)
        card, mixture = data_card(statistics, format, selection, files), _mixture(statistics, format)
        (scratch / CARD).write_text(card, encoding="utf-8")
        (scratch / MIXTURE).write_text(mixture, encoding="utf-8")

        folder.start()
        folder.own_all([_FILES[format].replace("{:06d}", "*"), *_image_patterns(format), CARD, MIXTURE])
        _move_files(scratch, folder.path)
        folder.finish()

    return statistics


def _select(
    records: Iterable[Record],
    images: Iterable[InputImage],
    selection: Selection,
    reviews: Reviews,
    statistics: ExportStatistics,
) -> Iterator[TrainingRecord]:
    """Yield the selected captions as training records, and count them and the others."""
    for record, image in zip(records, images, strict=True):
        if record.name != image.name:
            raise ValueError(f"the record of {record.name} stands where that of {image.name} belongs")

        statistics.records += 1
        confirmation = count_confirmed(record)
        review = find_review(record, reviews)
        text = (review.caption if review else "") or record.detailed_caption
        if review is not None and text.strip():
            reason = "rejected by a person" if review.verdict == "reject" else ""
        else:
            reason = selection.reason_left_out(record, confirmation)
            if not reason and selection.reviewed:
                reason = "without a review"
        if reason:
            statistics.left_out[reason] += 1
            continue

        statistics.exported += 1
        statistics.words += len(text.split())
        statistics.accepted += bool(review and review.verdict == "accept")
        statistics.corrected += bool(review and review.verdict == "correct")
        statistics.with_original += bool(record.original_caption)
        statistics.grounding += record.check.grounding if record.check else 1.0
        statistics.confirmation += confirmation
        for item in record.provenance:
            statistics.provenance.setdefault(item.expert, item)

        turn = (get_template(_PROMPT).text, text)
        yield TrainingRecord.from_turns(
            record.name, [_source(image)], [turn], "captions", f"record {record.name}"
        )


def _source(image: InputImage) -> ImageSource:
    """Return the file of an image; one without a file is read when it is written."""
    if isinstance(image.image, Path):
        # A name that is not UTF-8 stands in no JSON file: the image is copied.
        return image.image if _is_text(image.image) else partial(Path.read_bytes, image.image)
    # What is encoded in a container stays as it is.
    return image.image.content if isinstance(image.image, StoredImage) else image.open


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _write_data(
    folder: Path, records: Iterator[TrainingRecord], format: Format, shard_size: int
) -> list[str]:
    """Write the records to one file, or to shards; return the names of the files."""
    name = _FILES[format]
    if "{" not in name:
        writers.write_records(records, folder / name, format)
        return [name]

    files: list[str] = []
    while shard := list(islice(records, shard_size)):
        files.append(name.format(len(files)))
        writers.write_records(shard, folder / files[-1], format)
    return files


def _image_patterns(format: Format) -> list[str]:
    """Return the names of the images beside the data, those that had no file of their own, as patterns."""
    if "{" in _FILES[format]:
        return []
    return [f"{Path(_FILES[format]).stem}-images/*{suffix}" for suffix in sorted(SUFFIXES)]


def _move_files(source: Path, target: Path) -> None:
    """Move all files into another folder, the mixture last: whoever finds it finds all of its data."""
    names = [path.relative_to(source) for path in source.rglob("*") if not path.is_dir()]
    for name in sorted(names, key=lambda name: (name == Path(MIXTURE), name)):
        resources.sync(source / name)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source / name, target / name)


def _mixture(statistics: ExportStatistics, format: Format) -> str:
    """Return the YAML with which the data is trained on."""
    path = _FILES[format].replace("{:06d}", "*")
    content = {
        "description": f"{statistics.exported} detailed captions by monkeylib caption.",
        "sets": [{"name": "captions", "path": path, **_ENTRIES[format]}],
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


# --- the data card ----------------------------------------------------------------------------------------


def data_card(statistics: ExportStatistics, format: Format, selection: Selection, files: list[str]) -> str:
    """Return the data card of an export as Markdown."""
    counts = {
        "images in the records": statistics.records,
        "captions here": statistics.exported,
        "words in a caption, on average": f"{statistics.words / statistics.exported:.1f}",
        "images that came with a caption": statistics.with_original,
        "accepted by a person": statistics.accepted,
        "corrected by a person": statistics.corrected,
        "words with a source (grounded), on average": f"{statistics.grounding / statistics.exported:.1%}",
        "statements of experts": statistics.confirmation.statements,
        "confirmed by a second expert": _share(statistics.confirmation),
        **{f"left out: {reason}": count for reason, count in statistics.left_out.most_common()},
    }
    selected = {
        "status": ", ".join(selection.statuses),
        "failed checks": "included" if selection.with_problems else "left out",
        "least share of grounded words": f"{selection.grounding:g}",
        "least share of confirmed statements": f"{selection.confirmed:g}",
        "only reviewed captions": "yes" if selection.reviewed else "no",
    }
    models = [
        [item.expert, item.version, item.licence or "not stated"]
        for item in statistics.provenance.values()
        if item.expert != "filter"
    ]

    parts = [
        "# Detailed captions",
        f"{statistics.exported} images, each with a detailed caption that `monkeylib caption` composed of "
        "what several models say about it. What they get wrong, the captions get wrong.",
        f"`monkeylib train --data {MIXTURE}` trains on it. The format is `{format}`: {_named(files)}.",
        "## Counts",
        _table(["", "number"], counts.items()),
        "A word is grounded if an expert or the original caption used it, which fixed rules always achieve. "
        "A statement is confirmed if a second expert, with a model of its own, says the same.",
        "## Selection and thresholds",
        _table(["captions", ""], selected.items()),
        _table(["filter of the annotations", ""], filter_settings(statistics.provenance)),
        "## Models",
        _table(["model", "version", "licence of its weights"], models),
        f"Written by monkeylib {_version()}.",
        "## Licence",
        "The images keep the licences that they came with, which are not recorded here. The captions were "
        "written by the models above: see their licences, and the terms of a chat model's provider.",
    ]
    return "\n\n".join(parts) + "\n"


def _share(confirmation: Confirmation) -> str:
    share = confirmation.share
    return "–" if share is None else f"{confirmation.confirmed} ({share:.1%})"


def _named(files: list[str]) -> str:
    if len(files) == 1:
        return f"`{files[0]}`"
    return f"{len(files)} files, `{files[0]}` to `{files[-1]}`"


def _table(header: list[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _version() -> str:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version("monkeylib")
    return "(version unknown)"
