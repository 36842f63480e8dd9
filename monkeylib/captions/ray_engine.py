"""Ray as the engine of the caption pipeline, on one machine or many. The records are those of one process.

Images stream through a step that decodes them, one step for each stage, and a last one that finishes their
records. An image is decoded once: its pixels lie in Ray's object store until no later stage reads them.
"""

import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import numpy as np

from monkeylib.captions.annotations import Record
from monkeylib.captions.engines import ShardTask, divide_shard, finish_records, run_stage
from monkeylib.captions.failures import StageFailed
from monkeylib.captions.record_files import Shard, commit_shard
from monkeylib.captions.stages import PipelineSample, Stage, StageStatistics, load_samples
from monkeylib.progress import ProgressCallback

_CPU_FRACTIONS = 10_000  # Ray counts shares of a CPU in these
_PART = 32  # images that go from stage to stage together
_PART_PIXELS = 1 << 24  # of them: 50 MB. An image that is larger is read again by each stage
_DECODED = 4  # images that are decoded at the same time
_SHARDS = 64  # of one data set

Bounds = int | tuple[int, int]


@dataclass(frozen=True)
class Pool:
    """Actors of a stage.

    Fields:
        least, most: bounds of their number. Ray adds actors while images wait, and removes idle ones.
        first: their number at the beginning.
        gpus: share of a GPU of each.
    """

    least: int
    most: int
    first: int
    gpus: float = 0.0


@dataclass(frozen=True)
class RayEngine:
    """Runs on Ray Data, with one pool of actors per stage. All machines have to see the output folder.

    A model of which there must be one copy only (a composer with a budget) always gets one actor.

    Args:
        workers: number of actors of each pool, or its bounds, by stage name; else `default_workers`.
        default_workers: number or bounds for a pool that is not named. By default all pools begin with as
            many as fill the cluster together; then a pool may shrink to one actor, and another one grow.
        cpus: CPUs of each actor; by default one, or the largest of 1/2, 1/3, ... for which all actors fit. A
            plan with actors that would wait forever is refused.
        gpus: share of a GPU of each actor, by stage name; by default the model's own `gpu_share` if the
            cluster has GPUs.
        address: address of a running cluster, as in `ray.init`; without it, Ray starts on this machine.
    """

    workers: dict[str, Bounds] | None = None
    default_workers: Bounds | None = None
    cpus: float | None = None
    gpus: dict[str, float] | None = None
    address: str | None = None

    def run(
        self,
        shards: Iterable[Shard],
        stages: Sequence[Stage],
        folder: Path,
        progress: ProgressCallback | None,
    ) -> Iterator[Sequence[StageStatistics]]:
        """Commit each shard in `folder`, and yield its statistics."""
        rest = iter(shards)
        first = next(rest, None)
        if first is None:
            return

        import ray

        self.connect()

        # Ray holds all rows of a data set, so those of some shards are one.
        rest = chain([first], rest)
        while shards_of_set := list(islice(rest, _SHARDS)):
            # One block per row: an error then loses the images of one row only.
            rows = []
            for place, shard in enumerate(shards_of_set):
                parts = zip(count(0, _PART), divide_shard(shard, _PART), strict=False)
                rows += [{"task": pack(place, start, part)} for start, part in parts]

            data = ray.data.from_items(rows, override_num_blocks=len(rows))
            data, options = self.annotate(data, stages)
            data = data.map_batches(_finisher(stages), **options)
            yield from _commit_shards(_rows(data), shards_of_set, folder, progress)

    def connect(self) -> None:
        """Start Ray on this machine, or connect to the cluster, unless this process is connected."""
        import ray

        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False, include_dashboard=False)

    def annotate(self, data: Any, stages: Sequence[Stage]) -> tuple[Any, dict[str, Any]]:
        """Return a data set of packed tasks behind all stages, and the options of further steps.

        Raises: as `plan`.
        """
        import ray

        cluster = ray.cluster_resources()
        pools = self.plan(stages, cluster)
        options: dict[str, Any] = {
            "batch_size": 1,
            "batch_format": "numpy",
            "num_cpus": self.cpu_share(pools, cluster),
        }

        data = data.map_batches(_load, **options)
        for number, (stage, pool) in enumerate(zip(stages, pools, strict=True)):
            is_read_again = any(later.reads_images for later in stages[number + 1 :])
            data = data.map_batches(
                StageActor,
                fn_constructor_args=(stage, is_read_again),
                compute=ray.data.ActorPoolStrategy(
                    min_size=pool.least, max_size=pool.most, initial_size=pool.first
                ),
                num_gpus=pool.gpus or None,
                **options,
            )
        return data, options

    def plan(self, stages: Sequence[Stage], cluster: dict[str, float]) -> list[Pool]:
        """Return the pool of each stage.

        Args:
            stages: the stages.
            cluster: resources of the cluster, "CPU" and "GPU".

        Raises:
            ValueError: the actors would need more than the cluster has, and would wait forever; or bounds
                are none.
        """
        cluster_gpus = cluster.get("GPU", 0)
        shares = {stage.name: stage.model.gpu_share if cluster_gpus else 0.0 for stage in stages}

        # What the caller names takes precedence.
        shares |= self.gpus or {}
        bounds = {stage.name: _bounds(self.default_workers or 1, stage.name) for stage in stages}
        bounds |= {name: _bounds(value, name) for name, value in (self.workers or {}).items()}

        names = [stage.name for stage in stages]
        if unknown := (set(shares) | set(bounds)) - set(names):
            raise ValueError(f"There is no stage {min(unknown)!r}: the stages are {', '.join(names)}.")

        pools = []
        for stage in stages:
            least, most = self._require_alone(stage, bounds[stage.name])
            pools.append(Pool(least, most, least, shares[stage.name]))
        if self.default_workers is None:
            can_grow = [stage.name not in (self.workers or {}) and not stage.model.alone for stage in stages]
            pools = self._fill(pools, can_grow, cluster)

        # Ray would wait forever for resources that the cluster lacks.
        _require("CPUs", self.cpu_share(pools, cluster) * _process_count(pools), cluster.get("CPU", 0))
        _require("GPUs", sum(pool.first * pool.gpus for pool in pools), cluster_gpus)
        return pools

    def cpu_share(self, pools: Sequence[Pool], cluster: dict[str, float]) -> float:
        """Return the number of CPUs of each process.

        By default it is 1 / n, so that the processes on a machine fill its CPUs.
        """
        if self.cpus is not None:
            return self.cpus
        processes_per_cpu = max(1, math.ceil(_process_count(pools) / max(1.0, cluster.get("CPU", 0))))
        return math.floor(_CPU_FRACTIONS / processes_per_cpu) / _CPU_FRACTIONS

    def _fill(self, pools: list[Pool], can_grow: Sequence[bool], cluster: dict[str, float]) -> list[Pool]:
        """Return larger pools for the stages that can grow.

        All of them begin with the same number of actors more, as long as these fit, and may become as large
        as the cluster allows while the others are small.
        """
        grown = pools
        while any(can_grow):
            more = [
                replace(pool, first=pool.first + grows) for pool, grows in zip(grown, can_grow, strict=True)
            ]
            if not self._fits(more, cluster):
                break
            grown = more

        filled = []
        for number, (pool, grows) in enumerate(zip(grown, can_grow, strict=True)):
            most = pool.first
            alone = list(pools)
            while grows:
                alone[number] = replace(pool, first=most + 1)
                if not self._fits(alone, cluster):
                    break
                most += 1
            filled.append(replace(pool, most=max(pool.most, most)))
        return filled

    def _fits(self, pools: Sequence[Pool], cluster: dict[str, float]) -> bool:
        has_cpus = _process_count(pools) * (self.cpus or 1) <= cluster.get("CPU", 0)
        return has_cpus and _fit_gpus(pools, int(cluster.get("GPU", 0)))

    def _require_alone(self, stage: Stage, bounds: tuple[int, int]) -> tuple[int, int]:
        # Several copies of a composer with a budget would each spend all of it.
        if not stage.model.alone:
            return bounds
        if _bounds((self.workers or {}).get(stage.name, 1), stage.name)[1] > 1:
            raise ValueError(
                f"The stage {stage.name} can have one worker only, since its budget is one: it sends several "
                "requests at once within it."
            )
        return 1, 1


def _bounds(value: Bounds, name: str) -> tuple[int, int]:
    """Return the least and the largest number of actors.

    Raises:
        ValueError: they are no bounds.
    """
    least, most = value if isinstance(value, tuple) else (value, value)
    if not 1 <= least <= most:
        raise ValueError(
            f"The pool of {name} has at least one worker, and its bounds are in order: got {least}-{most}."
        )
    return least, most


def _commit_shards(
    rows: Iterable[dict[str, Any]],
    shards: Sequence[Shard],
    folder: Path,
    progress: ProgressCallback | None,
) -> Iterator[Sequence[StageStatistics]]:
    """Commit each shard when the records of all its images have come, and yield its statistics."""
    # Parts come back in any order.
    finished: dict[int, dict[int, Any]] = {}
    for row in rows:
        place, start, (records, statistics) = pickle.loads(row["task"])
        if progress:
            for stage in statistics:
                progress(stage.stage, len(records) - stage.computed, True)
                progress(stage.stage, stage.computed, False)

        of_shard = finished.setdefault(place, {})
        of_shard[start] = records, statistics
        if sum(len(records) for records, _ in of_shard.values()) == len(shards[place].images):
            in_order = [of_shard[start] for start in sorted(of_shard)]
            records = chain.from_iterable(records for records, _ in in_order)
            commit_shard(folder, shards[place], records)
            yield [item for _, statistics in in_order for item in statistics]
            del finished[place]


def _rows(data: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a data set, and raise what ended a stage as it was raised in its actor.

    Raises:
        StageFailed: a stage failed on nearly everything.
    """
    try:
        yield from data.iter_rows()
    except Exception as error:
        # Ray wraps it, once or several times.
        cause: BaseException | None = error
        while cause is not None and type(cause) is not StageFailed:
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is None:
            raise
        raise StageFailed(str(cause)) from None


def _fit_gpus(pools: Sequence[Pool], gpus: int) -> bool:
    """Return whether the actors' shares fit: those of an actor below 1 lie on one GPU."""
    free = [1.0] * gpus
    shares = [pool.gpus for pool in pools for _ in range(pool.first) if pool.gpus]
    for share in sorted(shares, reverse=True):
        if share >= 1:
            needed = math.ceil(share)
            if free.count(1.0) < needed:
                return False
            for _ in range(needed):
                free.remove(1.0)
            continue

        place = next((place for place, rest in enumerate(free) if rest >= share - 1e-9), None)
        if place is None:
            return False
        free[place] -= share
    return True


def _require(resource: str, needed: float, available: float) -> None:
    if needed > available:
        raise ValueError(
            f"The actors need {needed:g} {resource}, the cluster has {available:g}: they would wait for each "
            "other forever. Take fewer workers, or smaller shares of each."
        )


def _process_count(pools: Sequence[Pool]) -> int:
    return sum(pool.first for pool in pools) + 2  # loading and finishing take a process each


# --- steps ------------------------------------------------------------------------------------------------


def pack(place: int, start: int, content: Any, pixels: Sequence[Any] = ()) -> bytes:
    """Return a task, or its records, as it goes from step to step.

    Args:
        place: number of the shard in the data set.
        start: position of the first image in the shard.
        content: the task or the records.
        pixels: the decoded image of each sample, or None; samples alone leave them behind.
    """
    return pickle.dumps((place, start, content, pixels) if pixels else (place, start, content))


def unpack(packed: bytes) -> tuple[int, int, ShardTask]:
    """Return a packed task, with its decoded images, behind its place and start."""
    place, start, task, *pixels = pickle.loads(bytes(packed))
    if pixels:
        samples = zip(task.samples, pixels[0], strict=True)
        task = replace(task, samples=tuple(replace(sample, pixels=image) for sample, image in samples))
    return place, start, task


def _pack_pixels(place: int, start: int, task: ShardTask) -> bytes:
    return pack(place, start, task, [sample.pixels for sample in task.samples])


class StageActor:
    """A stage as an actor of Ray Data, called with a row for each packed `ShardTask`.

    Args:
        stage: the stage.
        keeps_pixels: whether a later stage reads the images.
    """

    def __init__(self, stage: Stage, keeps_pixels: bool) -> None:
        self.stage, self.keeps_pixels = stage, keeps_pixels

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch after the stage."""
        rows = []
        for place, start, task in map(unpack, batch["task"]):
            task = run_stage(self.stage, task)
            rows.append((_pack_pixels if self.keeps_pixels else pack)(place, start, task))
        return as_column(rows)


def _load(batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Decode the images of tasks, the first step. A task is divided where its images have many pixels."""
    for place, start, task in map(unpack, batch["task"]):
        for samples in _decoded_parts(task):
            part = replace(task, images=(), sha256=(), samples=tuple(samples))
            yield as_column([_pack_pixels(place, start, part)])
            start += len(samples)


def _decoded_parts(task: ShardTask) -> Iterator[list[PipelineSample]]:
    """Yield the samples of a task, as many at a time as `_PART_PIXELS` allows."""
    part: list[PipelineSample] = []
    pixels = 0
    for first in range(0, len(task.images), _DECODED):
        images, digests = (values[first : first + _DECODED] for values in (task.images, task.sha256))
        for sample in load_samples(images, digests, largest_in_memory=_PART_PIXELS):
            size = sample.record.width * sample.record.height if sample.pixels is not None else 0
            if part and pixels + size > _PART_PIXELS:
                yield part
                part, pixels = [], 0
            part.append(sample)
            pixels += size
    if part:
        yield part


def _finisher(stages: Sequence[Stage]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the last step, which passes on only the records and the statistics of a task."""

    def finish(batch: dict[str, Any]) -> dict[str, Any]:
        rows = []
        for place, start, task in map(unpack, batch["task"]):
            records: list[Record] = list(finish_records(task, stages))
            rows.append(pack(place, start, (records, task.statistics)))
        return as_column(rows)

    return finish


def as_column(rows: Sequence[bytes]) -> dict[str, Any]:
    """Return packed tasks as a batch of Ray Data."""
    column = np.empty(len(rows), dtype=object)  # NumPy's own type of bytes drops zeros at the end
    column[:] = rows
    return {"task": column}
