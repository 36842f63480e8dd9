"""Ray as the engine of the caption pipeline, on one machine or many. The records are those of one process."""

import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from monkeylib.captions.annotations import Record
from monkeylib.captions.failures import StageFailed
from monkeylib.captions.pipeline import ShardTask, divide_shard, finish_records, load_images, run_stage
from monkeylib.captions.record_files import Shard, commit_shard
from monkeylib.captions.stages import Stage, StageStatistics
from monkeylib.progress import ProgressCallback

_CPU_FRACTIONS = 10_000  # Ray counts shares of a CPU in these
_PART = 32  # images that go from stage to stage together
_SHARDS = 64  # of one data set


@dataclass(frozen=True)
class RayEngine:
    """Runs on Ray Data, with one pool of actors per stage. All machines have to see the output folder.

    A model of which there must be one copy only (a composer with a budget) always gets one actor.

    Args:
        workers: number of actors of each pool, by stage name; `default_workers` for the others.
        default_workers: number of actors of a pool that is not named; by default as many as fill the cluster.
        cpus: CPUs of each actor; by default one, or the largest of 1/2, 1/3, ... for which all actors fit. A
            plan with actors that would wait forever is refused.
        gpus: share of a GPU of each actor, by stage name; by default the model's own `gpu_share` if the
            cluster has GPUs.
        address: address of a running cluster, as in `ray.init`; without it, Ray starts on this machine.
    """

    workers: dict[str, int] | None = None
    default_workers: int | None = None
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

        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False, include_dashboard=False)

        # Ray holds all rows of a data set, so those of some shards are one.
        rest = chain([first], rest)
        while shards_of_set := list(islice(rest, _SHARDS)):
            yield from self._run_shards(shards_of_set, stages, folder, progress)

    def _run_shards(
        self,
        shards: Sequence[Shard],
        stages: Sequence[Stage],
        folder: Path,
        progress: ProgressCallback | None,
    ) -> Iterator[Sequence[StageStatistics]]:
        """Commit shards, each when the last of its images has been through all stages."""
        import ray

        cluster = ray.cluster_resources()
        actors = self.plan(stages, cluster)

        # One block per row: an error then loses the images of one row only.
        tasks = [(shard, list(divide_shard(shard, _PART))) for shard in shards]
        rows = []
        for place, (_, parts) in enumerate(tasks):
            rows += [{"task": pickle.dumps((place, number, part))} for number, part in enumerate(parts)]
        data = ray.data.from_items(rows, override_num_blocks=len(rows))

        options: dict[str, Any] = {
            "batch_size": 1,
            "batch_format": "numpy",
            "num_cpus": self.cpu_share(actors, cluster),
        }

        # Load, one step per stage, finish. Images stream through all steps at once.
        data = data.map_batches(_load, **options)
        for stage, (count, gpus) in zip(stages, actors, strict=True):
            data = data.map_batches(
                StageActor,
                fn_constructor_args=(stage,),
                compute=ray.data.ActorPoolStrategy(size=count),
                num_gpus=gpus or None,
                **options,
            )
        data = data.map_batches(_finisher(stages), **options)

        # Parts come back in any order; a shard is committed by this process when all of them are there.
        finished: dict[int, dict[int, Any]] = {}
        for row in _rows(data):
            place, number, (records, statistics) = pickle.loads(row["task"])
            if progress:
                for stage in statistics:
                    progress(stage.stage, len(records) - stage.computed, True)
                    progress(stage.stage, stage.computed, False)

            shard, parts = tasks[place]
            of_shard = finished.setdefault(place, {})
            of_shard[number] = records, statistics
            if len(of_shard) == len(parts):
                in_order = [of_shard[number] for number in range(len(parts))]
                commit_shard(folder, shard, chain.from_iterable(records for records, _ in in_order))
                yield [item for _, statistics in in_order for item in statistics]
                del finished[place]

    def plan(self, stages: Sequence[Stage], cluster: dict[str, float]) -> list[tuple[int, float]]:
        """Return the number of actors of each stage, and the share of a GPU of each actor.

        Args:
            stages: the stages.
            cluster: resources of the cluster, "CPU" and "GPU".

        Raises:
            ValueError: the actors would need more than the cluster has, and would wait forever.
        """
        cluster_gpus = cluster.get("GPU", 0)
        shares = {stage.name: stage.model.gpu_share if cluster_gpus else 0.0 for stage in stages}

        # What the caller names takes precedence.
        shares |= self.gpus or {}
        counts = {stage.name: self.default_workers or 1 for stage in stages}
        counts |= self.workers or {}

        names = [stage.name for stage in stages]
        if unknown := (set(shares) | set(counts)) - set(names):
            raise ValueError(f"There is no stage {min(unknown)!r}: the stages are {', '.join(names)}.")

        actors = [(self._actor_count(stage, counts), shares[stage.name]) for stage in stages]
        if self.default_workers is None:
            can_grow = [stage.name not in (self.workers or {}) and not stage.model.alone for stage in stages]
            actors = self._fill(actors, can_grow, cluster)

        # Ray would wait forever for resources that the cluster lacks.
        _require("CPUs", self.cpu_share(actors, cluster) * _process_count(actors), cluster.get("CPU", 0))
        _require("GPUs", sum(count * share for count, share in actors), cluster_gpus)
        return actors

    def cpu_share(self, actors: Sequence[tuple[int, float]], cluster: dict[str, float]) -> float:
        """Return the number of CPUs of each process.

        By default it is 1 / n, so that the processes on a machine fill its CPUs.
        """
        if self.cpus is not None:
            return self.cpus
        processes_per_cpu = max(1, math.ceil(_process_count(actors) / max(1.0, cluster.get("CPU", 0))))
        return math.floor(_CPU_FRACTIONS / processes_per_cpu) / _CPU_FRACTIONS

    def _fill(
        self, actors: list[tuple[int, float]], can_grow: Sequence[bool], cluster: dict[str, float]
    ) -> list[tuple[int, float]]:
        """Return more actors for the stages that can grow, the same number each, as long as they fit."""
        while any(can_grow):
            more = [(count + grows, share) for (count, share), grows in zip(actors, can_grow, strict=True)]
            has_cpus = _process_count(more) * (self.cpus or 1) <= cluster.get("CPU", 0)
            if not has_cpus or not _fit_gpus(more, int(cluster.get("GPU", 0))):
                break
            actors = more
        return actors

    def _actor_count(self, stage: Stage, counts: dict[str, int]) -> int:
        # Several copies of a composer with a budget would each spend all of it.
        if not stage.model.alone:
            return counts[stage.name]
        if (self.workers or {}).get(stage.name, 1) > 1:
            raise ValueError(
                f"The stage {stage.name} can have one worker only, since its budget is one: it sends several "
                "requests at once within it."
            )

        return 1


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


def _fit_gpus(actors: Sequence[tuple[int, float]], gpus: int) -> bool:
    """Return whether the actors' shares fit: those of an actor below 1 lie on one GPU."""
    free = [1.0] * gpus
    for share in sorted((share for count, share in actors for _ in range(count) if share), reverse=True):
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


def _process_count(actors: Sequence[tuple[int, float]]) -> int:
    return sum(count for count, _ in actors) + 2  # loading and finishing take a process each


class StageActor:
    """A stage as an actor of Ray Data, called with a row for each pickled `ShardTask`."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch after the stage."""
        return _map_tasks(lambda task: run_stage(self.stage, task), batch)


def _load(batch: dict[str, Any]) -> dict[str, Any]:
    """Read the images of tasks, the first step."""
    return _map_tasks(load_images, batch)


def _finisher(stages: Sequence[Stage]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the last step, which passes on only the records and the statistics of a task."""

    def finish(task: ShardTask) -> tuple[list[Record], Sequence[StageStatistics]]:
        return list(finish_records(task, stages)), task.statistics

    return lambda batch: _map_tasks(finish, batch)


def _map_tasks(step: Callable[[ShardTask], Any], batch: dict[str, Any]) -> dict[str, Any]:
    """Apply a step to the pickled tasks of a batch, each with the numbers of its shard and of the part."""
    column = np.empty(len(batch["task"]), dtype=object)  # NumPy's own type of bytes drops zeros at the end
    for row, pickled in enumerate(batch["task"]):
        place, number, task = pickle.loads(bytes(pickled))
        column[row] = pickle.dumps((place, number, step(task)))
    return {"task": column}
