"""The stages of the pipeline: each takes items (an image and what is known of it) and gives as many.

A stage is what an engine runs, on one machine or many: it can be pickled before its first call, and the same
items give the same items wherever it runs. Whatever a model raises ends up in a record's `failures`.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from monkeylib.captions import checks, filtering
from monkeylib.captions.annotations import ExpertOutput, Failure, GeneratedCaption, Provenance, Record, Score
from monkeylib.captions.cached_model import CachedModel, InferenceRequest, ProgressCallback, failure
from monkeylib.captions.composers.base import Composer
from monkeylib.captions.experts.base import DependentExpert, Expert, ImageTextMatcher, Model, crop
from monkeylib.captions.input_images import InputImage
from monkeylib.digests import json_digest


@dataclass(frozen=True)
class PipelineSample:
    """An image on its way: where it lies, what is known, and findings that only a refiner will use."""

    source: InputImage
    record: Record
    pending: dict[str, ExpertOutput] = field(default_factory=dict)

    def failed(self, problem: Failure) -> "PipelineSample":
        """The item with one more failure."""
        failures = (*self.record.failures, problem)
        return replace(self, record=self.record.model_copy(update={"failures": failures}))


@dataclass(frozen=True)
class StageStatistics:
    """What a stage did with some items: asked of its model, found in the store, failed; time and money."""

    stage: str
    asked: int = 0
    kept: int = 0
    failed: int = 0
    seconds: float = 0.0
    cost: float = 0.0  # US dollars

    def __add__(self, other: "StageStatistics") -> "StageStatistics":
        sums = {name: getattr(self, name) + getattr(other, name) for name in _SUMMED}
        return StageStatistics(self.stage, **sums)


_SUMMED = ("asked", "kept", "failed", "seconds", "cost")


def read(sources: Sequence[InputImage], sha256: Sequence[str]) -> list[PipelineSample]:
    """Items of images; one that can't be read gets a failure and no size."""
    return [_read(source, known) for source, known in zip(sources, sha256, strict=True)]


def _read(source: InputImage, sha256: str) -> PipelineSample:
    record = Record(name=source.name, original_caption=source.original_caption)
    try:
        width, height = source.open().size
        if not sha256:
            raise OSError("the file could not be read when its checksum was taken")
    except Exception as error:  # Pillow's plugins raise whatever they like on broken files
        return PipelineSample(source, record).failed(failure("read", error))
    return PipelineSample(
        source, record.model_copy(update={"sha256": sha256, "width": width, "height": height})
    )


class Stage(ABC):
    """A step from items to items with a model in it."""

    name: str
    model: Model

    def __call__(
        self, items: Sequence[PipelineSample], advance: ProgressCallback | None = None
    ) -> tuple[list[PipelineSample], StageStatistics]:
        """The items after this stage, in their order, and what it took."""
        start, spent, asker = time.perf_counter(), getattr(self.model, "cost", 0.0), self.asker
        asked, kept = asker.asked, asker.kept
        done = self.run(items, advance)
        new = sum(len(b.record.failures) - len(a.record.failures) for a, b in zip(items, done, strict=True))
        seconds, cost = time.perf_counter() - start, getattr(self.model, "cost", 0.0) - spent
        return done, StageStatistics(self.name, asker.asked - asked, asker.kept - kept, new, seconds, cost)

    @property
    @abstractmethod
    def asker(self) -> CachedModel:
        """The model and its store."""

    def release(self) -> None:
        """Free the model; it is loaded again when it is needed."""
        self.asker.release()

    @property
    @abstractmethod
    def provenance(self) -> tuple[Provenance, ...]:
        """What this stage adds to a record's provenance."""

    @abstractmethod
    def run(self, items: Sequence[PipelineSample], advance: ProgressCallback | None) -> list[PipelineSample]:
        """The items after this stage, in their order."""


class ExpertStage(Stage):
    """Adds an expert's findings.

    Args:
        expert: looks at the images.
        root: folder of what models said.
        batch_size: images that it gets at once.
        shown: its findings stand in the records.
        refined: its findings are kept for the refiners that work on them.
        last: of the refiners of its source, so that the source's findings may go.
        time_limit: seconds for a batch, or for an image asked alone; see `CachedModel`.
    """

    def __init__(
        self,
        expert: Expert,
        root: Path,
        batch_size: int,
        *,
        shown: bool = True,
        refined: bool = False,
        last: bool = False,
        time_limit: float | None = None,
    ) -> None:
        self.model, self.name = expert, expert.name
        self.shown, self.refined, self.last = shown, refined, last
        self._asker = CachedModel(expert, self._answer, ExpertOutput, root, batch_size, time_limit=time_limit)

    @property
    def asker(self) -> CachedModel:
        """The expert and its store."""
        return self._asker

    @property
    def provenance(self) -> tuple[Provenance, ...]:
        """The expert's; a refiner's names its source."""
        return (self.model.provenance,) if self.shown else ()

    def _answer(self, items: Sequence[PipelineSample]) -> list[ExpertOutput]:
        images = [item.source.open() for item in items]
        if isinstance(self.model, DependentExpert):
            upstream = [item.pending[model_key(self.model.upstream)] for item in items]
            return self.model.annotate_from(images, upstream)
        return self.model.annotate(images)  # type: ignore[attr-defined]

    def run(self, items: Sequence[PipelineSample], advance: ProgressCallback | None) -> list[PipelineSample]:
        """ExpertOutput, or a failure, for each image that could be read."""
        questions = [InferenceRequest(item.record.sha256, item) for item in items if self._can_ask(item)]
        if advance:
            advance(self.name, len(items) - len(questions), True)
        answers = self._asker(questions, advance)
        return [self._freed(self._with(item, answers.get(item.record.sha256))) for item in items]

    def _freed(self, item: PipelineSample) -> PipelineSample:
        if not (self.last and isinstance(self.model, DependentExpert)):
            return item
        used = model_key(self.model.upstream)
        return replace(item, pending={key: found for key, found in item.pending.items() if key != used})

    def _can_ask(self, item: PipelineSample) -> bool:
        known = not isinstance(self.model, DependentExpert) or model_key(self.model.upstream) in item.pending
        return bool(item.record.sha256) and known

    def _with(self, item: PipelineSample, said: ExpertOutput | Failure | None) -> PipelineSample:
        if said is None:
            return item
        if isinstance(said, Failure):
            return item.failed(said)
        if self.refined:
            item = replace(item, pending={**item.pending, model_key(self.model): said})
        if not self.shown:
            return item
        record = item.record
        changes = {name: (*getattr(record, name), *getattr(said, name)) for name in ExpertOutput.model_fields}
        return replace(item, record=record.model_copy(update=changes))


def model_key(model: Model) -> str:
    """The same for two models whose answers are the same."""
    return json_digest([model.provenance.model_dump(mode="json")])


class MatchStage(Stage):
    """Gives each described region its match: all regions of a batch of images go to the matcher at once."""

    def __init__(
        self, matcher: ImageTextMatcher, root: Path, batch_size: int, time_limit: float | None = None
    ) -> None:
        self.model, self.name = matcher, matcher.name
        self._asker = CachedModel(matcher, self._answer, list[Score], root, batch_size, time_limit=time_limit)

    @property
    def asker(self) -> CachedModel:
        """The matcher and its store."""
        return self._asker

    @property
    def provenance(self) -> tuple[Provenance, ...]:
        """The matcher's."""
        return (self.model.provenance,)

    def _answer(self, items: Sequence[PipelineSample]) -> list[list[float]]:
        crops, texts = [], []
        for item in items:
            image, boxes = item.source.open(), {}
            for region in item.record.regions:
                crops.append(boxes.setdefault(region.box, crop(image, region.box)))
                texts.append(region.text)
        scores = [min(max(float(score), 0.0), 1.0) for score in self.model.match(crops, texts)]  # type: ignore
        if len(scores) != len(texts):
            raise ValueError(f"{self.name} gave {len(scores)} scores for {len(texts)} regions")
        rest = iter(scores)
        return [[next(rest) for _ in item.record.regions] for item in items]

    def run(self, items: Sequence[PipelineSample], advance: ProgressCallback | None) -> list[PipelineSample]:
        """Matches, or a failure, for each image with regions."""
        keys = [_regions_key(item.record) if item.record.regions else "" for item in items]
        questions = [InferenceRequest(key, item) for key, item in zip(keys, items, strict=True) if key]
        if advance:
            advance(self.name, len(items) - len(questions), True)
        answers = self._asker(questions, advance)
        return [self._with(item, answers.get(key)) for key, item in zip(keys, items, strict=True)]

    def _with(self, item: PipelineSample, said: list[float] | Failure | None) -> PipelineSample:
        if said is None:
            return item
        if isinstance(said, Failure):
            return item.failed(said)
        pairs = zip(item.record.regions, said, strict=True)
        regions = tuple(region.model_copy(update={"match": match}) for region, match in pairs)
        return replace(item, record=item.record.model_copy(update={"regions": regions}))


def _regions_key(record: Record) -> str:
    return json_digest([record.sha256, [[region.box, region.text] for region in record.regions]])


class ComposeStage(Stage):
    """Filters what was found, has the composer describe it, and checks the description."""

    def __init__(self, composer: Composer, filters: filtering.Filter, root: Path) -> None:
        self.model, self.name, self.filters = composer, composer.name, filters
        self._asker = CachedModel(
            composer, composer.compose_all, str | GeneratedCaption, root, composer.batch_size, name="compose"
        )

    @property
    def asker(self) -> CachedModel:
        """The composer and its store."""
        return self._asker

    @property
    def provenance(self) -> tuple[Provenance, ...]:
        """The filter's and the composer's."""
        return self.filters.provenance, self.model.provenance

    def run(self, items: Sequence[PipelineSample], advance: ProgressCallback | None) -> list[PipelineSample]:
        """Finished records: filtered, described, checked."""
        records = [self.filters(item.record) if item.record.sha256 else item.record for item in items]
        keys = [_composer_key(record) if record.sha256 else "" for record in records]
        questions = [InferenceRequest(key, record) for key, record in zip(keys, records, strict=True) if key]
        count = None if advance is None else lambda _, number, kept: advance(self.name, number, kept)
        if count:
            count("", len(items) - len(questions), True)
        answers = self._asker(questions, count)
        done = zip(items, keys, records, strict=True)
        return [self._with(replace(item, record=record), answers.get(key)) for item, key, record in done]

    def _with(self, item: PipelineSample, said: str | GeneratedCaption | Failure | None) -> PipelineSample:
        if said is None:
            return item
        if isinstance(said, Failure):
            return item.failed(said)
        written = GeneratedCaption(text=said) if isinstance(said, str) else said
        record = item.record.model_copy(update={"detailed_caption": written.text})
        check = checks.check_caption(record) if written.text else None
        if check and written.refused:
            refused = (f"a draft was refused: {problem}" for problem in written.refused)
            check = check.model_copy(update={"problems": (*check.problems, *refused)})
        return replace(item, record=record.model_copy(update={"check": check}))


def _composer_key(record: Record) -> str:
    seen: Any = record.model_dump(
        mode="json", exclude={"name", "status", "provenance", "failures", "dropped", "check"}
    )
    return json_digest([seen])
