"""Engines: what takes the shards that are not committed yet, brings each through all stages, and commits it.

An engine knows nothing else of the pipeline. If it is killed, only the shards and batches at work are lost.
This is the engine of one process; `ray_engine` has that of many.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from monkeylib.captions.annotations import Record
from monkeylib.captions.input_images import InputImage
from monkeylib.captions.record_files import Shard, ShardKey, commit_shard
from monkeylib.captions.stages import PipelineSample, Stage, StageStatistics, load_samples
from monkeylib.images import MAX_PIXELS
from monkeylib.progress import ProgressCallback

_PART = 1000  # images whose records are held in memory


@dataclass(frozen=True)
class ShardTask:
    """Images of a shard on their way through the stages.

    Fields:
        key: the shard.
        images: some of its images, in order, or all.
        sha256: their digests.
        samples: the images with the results of the stages so far.
        statistics: statistics of the stages so far.
    """

    key: ShardKey
    images: tuple[InputImage, ...]
    sha256: tuple[str, ...]
    samples: tuple[PipelineSample, ...] = ()
    statistics: tuple[StageStatistics, ...] = ()


def divide_shard(shard: Shard, size: int) -> Iterator[ShardTask]:
    """Yield tasks of up to `size` images of a shard, in their order."""
    for start in range(0, len(shard.images), size):
        part = slice(start, start + size)
        yield ShardTask(shard.key, shard.images[part], shard.sha256[part])


def load_images(task: ShardTask) -> ShardTask:
    """Read the sizes of a task's images."""
    return replace(task, samples=tuple(load_samples(task.images, task.sha256)))


def run_stage(stage: Stage, task: ShardTask, progress: ProgressCallback | None = None) -> ShardTask:
    """Bring a shard through one more stage."""
    samples, statistics = stage(task.samples, progress)
    return replace(task, samples=tuple(samples), statistics=(*task.statistics, statistics))


def finish_records(task: ShardTask, stages: Sequence[Stage]) -> Iterator[Record]:
    """Yield the records of a task that has been through all stages."""
    provenance = tuple(item for stage in stages for item in stage.provenance)
    for sample in task.samples:
        # An image that could not be read has no provenance: no model saw it.
        if sample.record.sha256:
            sample = sample.with_record(provenance=provenance)
        yield sample.record


class Engine(Protocol):
    """Runs stages over shards."""

    def run(
        self,
        shards: Iterable[Shard],
        stages: Sequence[Stage],
        folder: Path,
        progress: ProgressCallback | None,
    ) -> Iterator[Sequence[StageStatistics]]:
        """Commit each shard in `folder`, and yield its statistics."""


@dataclass(frozen=True)
class LocalEngine:
    """Runs in this process: shard by shard.

    A batch of images goes through all experts and the matcher before the next one, so that each image is
    decoded once. Then the captions of `_PART` images are composed, and their records written.

    Args:
        low_memory: bring the full shard through a stage before the next one, and free its model, so that
            never more than one is loaded. It is loaded again for the next shard.
    """

    low_memory: bool = False

    def run(
        self,
        shards: Iterable[Shard],
        stages: Sequence[Stage],
        folder: Path,
        progress: ProgressCallback | None,
    ) -> Iterator[Sequence[StageStatistics]]:
        """Commit each shard in `folder`, and yield its statistics."""
        for shard in shards:
            totals: dict[str, StageStatistics] = {}
            commit_shard(folder, shard, self._records(shard, stages, totals, progress))
            yield tuple(totals.values())

    def _records(
        self,
        shard: Shard,
        stages: Sequence[Stage],
        totals: dict[str, StageStatistics],
        progress: ProgressCallback | None,
    ) -> Iterator[Record]:
        """Yield the records of a shard, and add its statistics up in `totals`."""
        for task in divide_shard(shard, len(shard.images) if self.low_memory else _PART):
            if self.low_memory:
                task = load_images(task)
                for stage in stages:
                    task = run_stage(stage, task, progress)
                    stage.release()
            else:
                task = _annotate_in_batches(task, [stage for stage in stages if stage.reads_images], progress)
                for stage in stages:
                    if not stage.reads_images:
                        task = run_stage(stage, task, progress)

            for statistics in task.statistics:
                name = statistics.stage
                totals[name] = totals.get(name, StageStatistics(name)) + statistics
            yield from finish_records(task, stages)


def _annotate_in_batches(
    task: ShardTask, stages: Sequence[Stage], progress: ProgressCallback | None
) -> ShardTask:
    """Bring images through the stages that read them, batch by batch. The next one is decoded meanwhile."""
    size = max((stage.cached_model.batch_size for stage in stages), default=len(task.images))
    samples: list[PipelineSample] = []
    totals = {stage.name: StageStatistics(stage.name) for stage in stages}

    def load(start: int) -> list[PipelineSample]:
        # The images of two batches may have as many pixels together as a single one.
        part = slice(start, start + size)
        return load_samples(task.images[part], task.sha256[part], largest_in_memory=MAX_PIXELS // (2 * size))

    starts = range(0, len(task.images), size)
    with ThreadPoolExecutor(1) as loader:
        ahead = loader.submit(load, 0)
        for next_start in (*starts[1:], None):
            batch = ahead.result()
            if next_start is not None:
                ahead = loader.submit(load, next_start)

            for stage in stages:
                batch, statistics = stage(batch, progress)
                totals[stage.name] += statistics
            samples += [replace(sample, pixels=None) for sample in batch]

    return replace(task, samples=tuple(samples), statistics=tuple(totals.values()))
