"""Run experts over pictures, filter, compose; keep every result, so that a rerun does what is missing.

An expert's findings about a picture are kept in `out/findings/<expert>/<version and
settings>/<sha256>.json`: the same picture under another name, or twice, is looked at once. Failures are
recorded and not kept, so that a rerun tries again.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from monkeylib import paths
from monkeylib.captions import compose, filtering
from monkeylib.captions.annotations import Failure, Findings, Provenance, Record, write_records
from monkeylib.captions.experts import Expert
from monkeylib.processing import open_image

RECORDS = "records.jsonl"


@dataclass(frozen=True)
class Source:
    """A picture to describe: a file or one in memory, its name, and its original caption if it has one."""

    picture: Path | Image.Image
    name: str
    original_caption: str = ""


@dataclass(frozen=True)
class _Known:
    """A source that could be read."""

    source: Source
    sha256: str
    size: tuple[int, int]

    def open(self) -> Image.Image:
        return open_image(self.source.picture)


def run(
    pictures: Iterable[Source | Path | str],
    experts: Sequence[Expert],
    out: Path | str,
    *,
    composer: compose.Composer | None = None,
    thresholds: filtering.Thresholds = filtering.DEFAULTS,
    batch_size: int = 8,
    progress: bool = True,
) -> list[Record]:
    """Describe pictures; also written to `out/records.jsonl`, in their order.

    A picture that can't be read, and an expert that fails on a picture, are recorded in `failures`;
    everything else goes on.

    Args:
        pictures: files or `Source`s.
        experts: each is asked only about pictures that it hasn't seen at its version and settings.
        out: folder of the findings and the records.
        composer: writes the descriptions; `compose.RuleComposer()` if not given.
        thresholds: of the filter.
        batch_size: pictures that an expert gets at once.
        progress: show a progress bar for each expert.

    Raises:
        ValueError: no pictures.
    """
    out, composer = Path(out), composer or compose.RuleComposer()
    sources = [p if isinstance(p, Source) else Source(Path(p), Path(p).name) for p in pictures]
    if not sources:
        raise ValueError("There is nothing to describe: got no pictures.")
    known = [_read(source) for source in sources]
    unique = list({item.sha256: item for item in known if isinstance(item, _Known)}.values())
    results = [_ask(expert, unique, out / "findings", batch_size, progress) for expert in experts]
    provenance = (*(expert.provenance for expert in experts), composer.provenance)
    records = []
    for source, item in zip(sources, known, strict=True):
        if isinstance(item, Failure):
            records.append(
                Record(name=source.name, original_caption=source.original_caption, failures=(item,))
            )
        else:
            merged = _merge(item, [result[item.sha256] for result in results], provenance)
            records.append(_compose(filtering.apply_filter(merged, thresholds), composer))
    write_records(records, out / RECORDS)
    return records


def findings_folder(folder: Path, provenance: Provenance) -> Path:
    """Where the findings of an expert at a version and with settings are kept."""
    settings = json.dumps(provenance.settings, sort_keys=True)
    return (
        folder
        / provenance.expert
        / f"{provenance.version}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
    )


def _read(source: Source) -> _Known | Failure:
    try:
        image = open_image(source.picture)
        if isinstance(source.picture, Path):
            content = source.picture.read_bytes()
        else:
            content = f"{image.size}".encode() + image.tobytes()
    except (OSError, ValueError) as error:
        return _failure("read", error)
    return _Known(source, hashlib.sha256(content).hexdigest(), image.size)


def _failure(stage: str, error: Exception) -> Failure:
    return Failure(stage=stage, error=f"{type(error).__name__}: {error}")


def _ask(
    expert: Expert, pictures: Sequence[_Known], folder: Path, batch_size: int, progress: bool
) -> dict[str, Findings | Failure]:
    """What the expert says about each picture, by SHA-256: findings kept from earlier, and new ones."""
    home = findings_folder(folder, expert.provenance)
    kept = {picture.sha256: home / f"{picture.sha256}.json" for picture in pictures}
    results: dict[str, Findings | Failure] = {
        sha256: Findings.model_validate_json(path.read_bytes())
        for sha256, path in kept.items()
        if path.is_file()
    }
    missing = [picture for picture in pictures if picture.sha256 not in results]
    with tqdm(
        total=len(pictures), initial=len(results), desc=expert.name, disable=not progress, unit="picture"
    ) as bar:
        for batch, findings in _annotated(expert, missing, batch_size):
            for picture, found in zip(batch, findings, strict=True):
                results[picture.sha256] = found
                if isinstance(found, Findings):
                    with paths.replacing(kept[picture.sha256]) as temporary:
                        temporary.write_text(found.model_dump_json(), encoding="utf-8")
            bar.update(len(batch))
    return results


def _annotated(
    expert: Expert, pictures: Sequence[_Known], batch_size: int
) -> Iterator[tuple[Sequence[_Known], list[Findings | Failure]]]:
    """Batches with their findings; an expert that can't be loaded fails on all pictures at once."""
    if not pictures:
        return
    try:
        expert.prepare()
    except Exception as error:  # whatever an expert raises is recorded
        yield pictures, [_failure(expert.name, error)] * len(pictures)
        return
    for start in range(0, len(pictures), batch_size):
        batch = pictures[start : start + batch_size]
        yield batch, _annotate(expert, batch)


def _annotate(expert: Expert, batch: Sequence[_Known]) -> list[Findings | Failure]:
    """Findings of a batch; where it fails, each picture is asked about alone, so that one spoils no other."""
    try:
        found = expert.annotate([picture.open() for picture in batch])
        if len(found) != len(batch):
            raise ValueError(f"expert {expert.name} gave {len(found)} findings for {len(batch)} pictures")
        return list(found)
    except Exception as error:  # whatever an expert raises is recorded
        if len(batch) == 1:
            return [_failure(expert.name, error)]
        return [found for picture in batch for found in _annotate(expert, [picture])]


def _merge(item: _Known, results: Sequence[Findings | Failure], provenance: tuple[Provenance, ...]) -> Record:
    found = [result for result in results if isinstance(result, Findings)]
    return Record(
        name=item.source.name,
        sha256=item.sha256,
        width=item.size[0],
        height=item.size[1],
        original_caption=item.source.original_caption,
        captions=tuple(caption for result in found for caption in result.captions),
        regions=tuple(region for result in found for region in result.regions),
        lines=tuple(line for result in found for line in result.lines),
        provenance=provenance,
        failures=tuple(result for result in results if isinstance(result, Failure)),
    )


def _compose(record: Record, composer: compose.Composer) -> Record:
    try:
        return record.model_copy(update={"detailed_caption": composer.compose(record)})
    except Exception as error:  # a chat model that doesn't answer must not lose the picture
        failures = (*record.failures, _failure("compose", error))
        return record.model_copy(update={"failures": failures})
