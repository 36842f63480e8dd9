"""Engines run the stages: in this process, or with Ray on many machines. The records are the same.

An engine takes the shards that are not committed yet, brings each through all stages, and commits it. It
knows nothing else of the pipeline. If it is killed, only the shards and batches at work are lost.
"""

import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from monkeylib.captions.shards import Shard, commit_shard
from monkeylib.captions.stages import PipelineSample, Stage, StageStatistics, load_samples
from monkeylib.progress import ProgressCallback

_CPU_FRACTIONS = 10_000  # Ray counts shares of a CPU in these


@dataclass(frozen=True)
class ShardTask:
    """A shard on its way through the stages.

    Fields:
        shard: the shard.
        samples: its images, with what the stages so far have found.
        statistics: of the stages so far.
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
    """Commit a shard that has been through all stages, and return what each stage did."""
    provenance = tuple(item for stage in stages for item in stage.provenance)

    records = []
    for sample in task.samples:
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
        """Commit each shard in `folder`, and yield what the stages did for it."""


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
        """Commit each shard in `folder`, and yield what the stages did for it."""
        for shard in shards:
            task = load_shard(shard)
            for stage in stages:
                task = run_stage(stage, task, progress)
                if self.low_memory:
                    stage.release()
            yield finish_shard(task, stages, folder)


@dataclass(frozen=True)
class RayEngine:
    """Runs on Ray Data, with one pool of actors per stage. All machines have to see the output folder.

    A model of which there must be one copy only (a composer with a budget) always gets one actor.

    Args:
        workers: actors of each pool, by stage name; `default_workers` for the others.
        default_workers: actors of a pool that is not named.
        cpus: CPUs that each actor asks for; by default a whole one, or the largest of 1/2, 1/3, ... for which
            there is room for all. A plan with actors that would wait forever is refused.
        gpus: share of a GPU of each actor, by stage name; by default the model's own `gpu_share` if the
            cluster has GPUs.
        address: of a running cluster, as in `ray.init`; without it, Ray starts on this machine.
    """

    workers: dict[str, int] | None = None
    default_workers: int = 1
    cpus: float | None = None
    gpus: dict[str, float] | None = None
    address: str | None = None

    def run(
        self,
        shards: Sequence[Shard],
        stages: Sequence[Stage],
        folder: Path,
        progress: ProgressCallback | None,
    ) -> Iterator[list[StageStatistics]]:
        """Commit each shard in `folder`, and yield what the stages did for it."""
        if not shards:
            return

        import ray

        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False, include_dashboard=False)
        cluster = ray.cluster_resources()
        actors = self.plan(stages, cluster)

        # One block per shard: an error then loses one shard only.
        rows = [{"task": pickle.dumps(ShardTask(shard))} for shard in shards]
        data = ray.data.from_items(rows, override_num_blocks=len(rows))

        options: dict[str, Any] = {
            "batch_size": 1,
            "batch_format": "numpy",
            "num_cpus": self.cpu_share(actors, cluster),
        }
        # Load, one step per stage, commit. Shards stream through all steps at once.
        data = data.map_batches(_load, **options)
        for stage, (count, gpus) in zip(stages, actors, strict=True):
            data = data.map_batches(
                StageActor,
                fn_constructor_args=(stage,),
                compute=ray.data.ActorPoolStrategy(size=count),
                num_gpus=gpus or None,
                **options,
            )
        data = data.map_batches(_finisher(stages, folder), **options)

        # What comes back is small: the records have been written by the workers.
        for row in data.iter_rows():
            image_count, statistics = pickle.loads(row["task"])
            if progress:
                for stage in statistics:
                    progress(stage.stage, image_count - stage.computed, True)
                    progress(stage.stage, stage.computed, False)
            yield statistics

    def plan(self, stages: Sequence[Stage], cluster: dict[str, float]) -> list[tuple[int, float]]:
        """Return the actors of each stage and the share of a GPU that each gets.

        Args:
            stages: the stages.
            cluster: resources of the cluster, "CPU" and "GPU".

        Raises:
            ValueError: the actors would need more than the cluster has, and would wait forever.
        """
        cluster_gpus = cluster.get("GPU", 0)
        shares = {stage.name: stage.model.gpu_share if cluster_gpus else 0.0 for stage in stages}
        shares |= self.gpus or {}
        counts = {stage.name: self.default_workers for stage in stages}
        counts |= self.workers or {}

        names = [stage.name for stage in stages]
        if unknown := (set(shares) | set(counts)) - set(names):
            raise ValueError(f"There is no stage {min(unknown)!r}: the stages are {', '.join(names)}.")

        actors = [(self._actor_count(stage, counts), shares[stage.name]) for stage in stages]
        _require("CPUs", self.cpu_share(actors, cluster) * _process_count(actors), cluster.get("CPU", 0))
        _require("GPUs", sum(count * share for count, share in actors), cluster_gpus)
        return actors

    def cpu_share(self, actors: Sequence[tuple[int, float]], cluster: dict[str, float]) -> float:
        """Return the CPUs that each process asks for.

        If none are given, the share is 1 / n, so that no machine is left with an unused rest.
        """
        if self.cpus is not None:
            return self.cpus
        processes_per_cpu = max(1, math.ceil(_process_count(actors) / max(1.0, cluster.get("CPU", 0))))
        return math.floor(_CPU_FRACTIONS / processes_per_cpu) / _CPU_FRACTIONS

    def _actor_count(self, stage: Stage, counts: dict[str, int]) -> int:
        if not stage.model.alone:
            return counts[stage.name]
        if (self.workers or {}).get(stage.name, 1) > 1:
            raise ValueError(
                f"The stage {stage.name} can have one worker only, since its budget is one: it sends several "
                "requests at once within it."
            )
        return 1


def _require(resource: str, needed: float, available: float) -> None:
    if needed > available:
        raise ValueError(
            f"The actors need {needed:g} {resource}, the cluster has {available:g}: they would wait for each "
            "other forever. Take fewer workers, or smaller shares of each."
        )


def _process_count(actors: Sequence[tuple[int, float]]) -> int:
    return sum(count for count, _ in actors) + 2  # loading and committing take a process each


class StageActor:
    """A stage in a process of its own, as Ray Data calls it: with a pickled `ShardTask` per row."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch after the stage."""
        return _map_tasks(lambda task: run_stage(self.stage, task), batch)


def _load(batch: dict[str, Any]) -> dict[str, Any]:
    """Read the images of shards, the first step."""
    return _map_tasks(lambda task: load_shard(task.shard), batch)


def _finisher(stages: Sequence[Stage], folder: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the last step, which commits a shard and passes on only its size and statistics."""

    def finish(task: ShardTask) -> tuple[int, list[StageStatistics]]:
        return len(task.samples), finish_shard(task, stages, folder)

    return lambda batch: _map_tasks(finish, batch)


def _map_tasks(step: Callable[[ShardTask], Any], batch: dict[str, Any]) -> dict[str, Any]:
    """Apply a step to the pickled tasks of a batch."""
    column = np.empty(len(batch["task"]), dtype=object)  # NumPy's own type of bytes drops zeros at the end
    for row, pickled in enumerate(batch["task"]):
        column[row] = pickle.dumps(step(pickle.loads(bytes(pickled))))
    return {"task": column}
