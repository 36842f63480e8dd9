"""The caption pipeline: experts annotate images, a filter drops annotations, a composer writes the caption.

The output folder of a run holds

* `records.jsonl`, a record for each image in order,
* `shards/`, the same as parquet, listed with their checksums in `manifest.json`,
* `annotations/`, the cached results of each model,
* `summary.json`, statistics of the last run.

Every result is cached, so a rerun computes only what is missing. An image that comes twice, or under another
name, is processed once. Failures are recorded but not cached: the next run tries again.
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from monkeylib import resources
from monkeylib.captions import filtering
from monkeylib.captions.annotations import Record
from monkeylib.captions.composers import Composer
from monkeylib.captions.composers.rules import RuleComposer
from monkeylib.captions.input_images import InputImage
from monkeylib.captions.models import DependentExpert, Expert, ImageTextMatcher
from monkeylib.captions.record_files import (
    RECORDS,
    SHARD_SIZE,
    Shard,
    commit_shard,
    gather_shards,
    plan_shards,
    read_entry,
    read_records,
)
from monkeylib.captions.stages import (
    ComposeStage,
    ExpertStage,
    MatchStage,
    PipelineSample,
    Stage,
    StageStatistics,
    load_samples,
)
from monkeylib.progress import Progress, ProgressCallback

__all__ = ["RECORDS", "InputImage", "Pipeline", "Summary", "caption_images"]


def caption_images(
    images: Iterable[InputImage | Path | str],
    experts: Sequence[Expert],
    out: Path | str,
    *,
    matcher: ImageTextMatcher | None = None,
    composer: Composer | None = None,
    thresholds: filtering.Thresholds | None = filtering.DEFAULTS,
    batch_size: int = 8,
    progress: bool = True,
) -> list[Record]:
    """Caption images in this process and return their records, in their order; see `Pipeline`.

    An image that cannot be read, and an expert that fails on an image, are recorded in `Record.failures`, and
    the run continues.

    Raises:
        ValueError: there are no images.
    """
    inputs = []
    for image in images:
        inputs.append(image if isinstance(image, InputImage) else InputImage(Path(image), Path(image).name))

    pipeline = Pipeline(
        experts,
        matcher=matcher,
        composer=composer,
        filters=filtering.Filter(thresholds),
        batch_size=batch_size,
    )
    pipeline.run(inputs, out, progress=progress)
    return list(read_records(Path(out) / RECORDS))


@dataclass(frozen=True)
class Pipeline:
    """Experts, matcher, filter and composer that process every image.

    Fields:
        experts: each annotates every image. The upstream expert of a dependent one runs before it; its
            own annotations are in the records only if it is one of the experts too.
        matcher: scores the texts of regions; without one, the filter takes the experts' own confidence.
        composer: writes the detailed captions; fixed rules if not given.
        filters: thresholds and overlap of the filter.
        batch_size: number of images that a model gets at once.
        time_limit: seconds that an expert or the matcher may take for a batch, or for an image that is run
            alone because its batch failed; a timeout is a failure. Each model then runs in a
            separate process. None for no limit.
    """

    experts: Sequence[Expert]
    matcher: ImageTextMatcher | None = None
    composer: Composer | None = None
    filters: filtering.Filter = filtering.Filter()
    batch_size: int = 8
    time_limit: float | None = None

    def __post_init__(self) -> None:
        if self.time_limit is not None and self.time_limit <= 0:
            raise ValueError(f"A time limit is more than 0 seconds, got {self.time_limit:g}.")

    def run(
        self,
        images: Sequence[InputImage],
        out: Path | str,
        *,
        engine: "Engine | None" = None,
        shard_size: int = SHARD_SIZE,
        retry_failed: bool = True,
        progress: bool = True,
    ) -> "Summary":
        """Caption images into the folder `out`, resuming an interrupted run.

        Args:
            images: the images.
            out: the folder; it may hold the results of other images and other settings too.
            engine: runs the stages; by default this process does.
            shard_size: images that are committed together.
            retry_failed: run shards again whose records have failures.
            progress: show bars on standard error.

        Raises:
            ValueError: there are no images, the shard size is below 1, or the engine's plan is impossible.
        """
        if not images:
            raise ValueError("There is nothing to caption: got no images.")

        start = time.perf_counter()

        # Workers may run in other folders.
        out = Path(out).absolute()
        images = [image.absolute() for image in images]
        folder = out / "shards"

        stages = self.stages(out / "annotations")
        provenance = [item for stage in stages for item in stage.provenance]

        with Progress("images") if progress else nullcontext() as bars, self._releasing(stages):
            if bars:
                bars.add_task("checksums", len(images))
            shards = plan_shards(images, provenance, shard_size, bars and partial(bars.advance, "checksums"))

            # Shards that an earlier run has committed are left alone.
            missing = [shard for shard in shards if not _is_finished(folder, shard, retry_failed)]
            if bars:
                image_count = sum(len(shard.images) for shard in missing)
                for stage in stages:
                    bars.add_task(stage.name, image_count)

            # Engines are generators: the shards run while their statistics are added up.
            runs = (engine or LocalEngine()).run(missing, stages, folder, bars and bars.advance)
            statistics = _add_up(stages, runs)

        manifest = gather_shards(folder, shards, out)
        summary = Summary(
            records=manifest["records"],
            failed=manifest["failed"],
            shards=len(shards),
            already=len(shards) - len(missing),
            seconds=time.perf_counter() - start,
            stages=statistics,
        )

        with resources.atomic_write(out / "summary.json") as temporary:
            temporary.write_text(json.dumps(asdict(summary), indent=1) + "\n", encoding="utf-8")
        return summary

    def stages(self, root: Path) -> list[Stage]:
        """Return the stages in order; results of models are cached under `root`."""
        expert_stages: dict[str, ExpertStage] = {}
        for expert in self.experts:
            # An upstream expert has annotations in the records only if it was selected itself.
            self._add_expert(expert, root, expert_stages).in_records = True

        # An upstream output is carried along until the last expert that depends on it.
        last_dependents: dict[str, ExpertStage] = {}
        for stage in expert_stages.values():
            if stage.upstream_key:
                expert_stages[stage.upstream_key].has_dependents = True
                last_dependents[stage.upstream_key] = stage

        for stage in last_dependents.values():
            stage.last_dependent = True

        # Match after all experts, and compose last.
        stages: list[Stage] = [*expert_stages.values()]
        if self.matcher:
            stages.append(MatchStage(self.matcher, root, self.batch_size, self.time_limit))
        stages.append(ComposeStage(self.composer or RuleComposer(), self.filters, root))
        return stages

    def _add_expert(self, expert: Expert, root: Path, stages: dict[str, ExpertStage]) -> ExpertStage:
        """Return the stage of an expert; add it after that of its upstream expert if it is missing."""
        stage = ExpertStage(expert, root, self.batch_size, self.time_limit)
        if stage.key not in stages:
            if isinstance(expert, DependentExpert):
                self._add_expert(expert.upstream, root, stages)
            stages[stage.key] = stage

        return stages[stage.key]

    @contextmanager
    def _releasing(self, stages: Sequence[Stage]) -> Iterator[None]:
        """End the processes of models with a time limit when the block ends, whatever happens."""
        try:
            yield
        finally:
            if self.time_limit:
                for stage in stages:
                    stage.release()


def _is_finished(folder: Path, shard: Shard, retry_failed: bool) -> bool:
    entry = read_entry(folder, shard)
    if entry is None:
        return False
    # A shard with failures is run again: what succeeded is cached.
    return not (retry_failed and entry["failed"])


def _add_up(
    stages: Sequence[Stage], runs: Iterable[Sequence[StageStatistics]]
) -> tuple[StageStatistics, ...]:
    """Return the statistics of each stage over all shards, as an engine yields them."""
    totals = {stage.name: StageStatistics(stage.name) for stage in stages}
    for statistics in runs:
        for stage in statistics:
            totals[stage.stage] += stage
    return tuple(totals.values())


# --- engines ----------------------------------------------------------------------------------------------
#
# An engine takes the shards that are not committed yet, brings each through all stages, and commits it. It
# knows nothing else of the pipeline. If it is killed, only the shards and batches at work are lost.


@dataclass(frozen=True)
class ShardTask:
    """A shard on its way through the stages.

    Fields:
        shard: the shard.
        samples: its images, with the results of the stages so far.
        statistics: statistics of the stages so far.
    """

    shard: Shard
    samples: tuple[PipelineSample, ...] = ()
    statistics: tuple[StageStatistics, ...] = ()


def load_shard(shard: Shard) -> ShardTask:
    """Read the images of a shard."""
    return ShardTask(shard, tuple(load_samples(shard.images, shard.sha256)))


def run_stage(stage: Stage, task: ShardTask, progress: ProgressCallback | None = None) -> ShardTask:
    """Bring a shard through one more stage."""
    samples, statistics = stage(task.samples, progress)
    return replace(task, samples=tuple(samples), statistics=(*task.statistics, statistics))


def finish_shard(task: ShardTask, stages: Sequence[Stage], folder: Path) -> list[StageStatistics]:
    """Commit a shard that has been through all stages, and return the statistics of the stages."""
    provenance = tuple(item for stage in stages for item in stage.provenance)

    records = []
    for sample in task.samples:
        # An image that could not be read has no provenance: no model saw it.
        if sample.record.sha256:
            sample = sample.with_record(provenance=provenance)
        records.append(sample.record)

    commit_shard(folder, task.shard, records, task.statistics)
    return list(task.statistics)


class Engine(Protocol):
    """Runs stages over shards."""

    def run(
        self,
        shards: Sequence[Shard],
        stages: Sequence[Stage],
        folder: Path,
        progress: ProgressCallback | None,
    ) -> Iterator[list[StageStatistics]]:
        """Commit each shard in `folder`, and yield its statistics."""


@dataclass(frozen=True)
class LocalEngine:
    """Runs in this process: shard by shard, and within a shard stage by stage.

    Args:
        low_memory: free a model when its stage is done, so that never more than one is loaded. It is loaded
            again for the next shard.
    """

    low_memory: bool = False

    def run(
        self,
        shards: Sequence[Shard],
        stages: Sequence[Stage],
        folder: Path,
        progress: ProgressCallback | None,
    ) -> Iterator[list[StageStatistics]]:
        """Commit each shard in `folder`, and yield its statistics."""
        for shard in shards:
            task = load_shard(shard)
            for stage in stages:
                task = run_stage(stage, task, progress)
                if self.low_memory:
                    stage.release()
            yield finish_shard(task, stages, folder)


@dataclass(frozen=True)
class Summary:
    """Statistics of a run.

    Fields:
        records: images in `records.jsonl`.
        failed: images with failures.
        shards: number of shards.
        already: shards that an earlier run had committed.
        seconds: from the first checksum to the last file.
        stages: statistics of each stage.
    """

    records: int
    failed: int
    shards: int
    already: int
    seconds: float
    stages: tuple[StageStatistics, ...]

    @property
    def cost(self) -> float:
        """US dollars that paid services cost."""
        return sum(stage.cost for stage in self.stages)

    def rows(self) -> list[dict[str, str | int | float]]:
        """Return a row per stage, for a table."""
        rows: list[dict[str, str | int | float]] = []
        for stage in self.stages:
            speed = stage.computed / stage.seconds if stage.seconds else 0.0
            rows.append(
                {
                    "stage": stage.stage,
                    "computed": stage.computed,
                    "cached": stage.cached,
                    "failed": stage.failed,
                    "seconds": round(stage.seconds, 1),
                    "images/s": round(speed, 2),
                    "US$": round(stage.cost, 4),
                }
            )

        return rows
