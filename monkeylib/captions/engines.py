"""Who runs the stages: this process, or Ray on many machines. The records are the same.

Both take shards that aren't committed, bring each through all stages, and commit it. An engine has no logic
of the pipeline, and nothing it loses when it is killed is more than the shards and batches it was working on.
"""

import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from monkeylib.captions import shards as committing
from monkeylib.captions.cached_model import ProgressCallback
from monkeylib.captions.shards import Shard
from monkeylib.captions.stages import PipelineSample, Stage, StageStatistics, read

_FINEST = 10_000  # Ray counts shares of a CPU in parts of this


@dataclass(frozen=True)
class ShardTask:
    """A shard on its way through the stages."""

    shard: Shard
    items: tuple[PipelineSample, ...] = ()
    tallies: tuple[StageStatistics, ...] = ()


def start(shard: Shard) -> ShardTask:
    """A shard whose images have been read."""
    return ShardTask(shard, tuple(read(shard.sources, shard.sha256)))


def run_stage(stage: Stage, work: ShardTask, advance: ProgressCallback | None = None) -> ShardTask:
    """A shard after one more stage."""
    items, tally = stage(work.items, advance)
    return replace(work, items=tuple(items), tallies=(*work.tallies, tally))


def finish(work: ShardTask, stages: Sequence[Stage], folder: Path) -> list[StageStatistics]:
    """Commit a shard that has been through all stages; returns what each stage did."""
    provenance = tuple(item for stage in stages for item in stage.provenance)
    records = [item.record for item in work.items]
    records = [
        record.model_copy(update={"provenance": provenance}) if record.sha256 else record
        for record in records
    ]
    committing.commit(folder, work.shard, records, work.tallies)
    return list(work.tallies)


class Engine(Protocol):
    """Runs stages over shards."""

    def run(
        self, shards: Sequence[Shard], stages: Sequence[Stage], folder: Path, advance: ProgressCallback | None
    ) -> Iterator[list[StageStatistics]]:
        """Commit each shard in `folder`, and say what was done for it."""


@dataclass(frozen=True)
class LocalEngine:
    """Runs in this process: shard by shard, in each stage by stage.

    `low_memory` frees a model when its stage is done, so that never more than one is loaded; it is loaded
    again for the next shard.
    """

    low_memory: bool = False

    def run(
        self, shards: Sequence[Shard], stages: Sequence[Stage], folder: Path, advance: ProgressCallback | None
    ) -> Iterator[list[StageStatistics]]:
        """Commit each shard in `folder`, and say what was done for it."""
        for shard in shards:
            work = start(shard)
            for stage in stages:
                work = run_stage(stage, work, advance)
                if self.low_memory:
                    stage.release()
            yield finish(work, stages, folder)


class StageActor:
    """A stage in a process of its own, as Ray Data calls it: batches of one shard, in `work` as bytes."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch after the stage."""
        return _mapped(lambda work: pickle.dumps(run_stage(self.stage, work)), batch)


def _mapped(step: Callable[[ShardTask], bytes], batch: dict[str, Any]) -> dict[str, Any]:
    done = np.empty(len(batch["work"]), dtype=object)  # NumPy's own bytes would lose zeros at their end
    done[:] = [step(pickle.loads(bytes(work))) for work in batch["work"]]
    return {"work": done}


@dataclass(frozen=True)
class RayEngine:
    """Runs on Ray Data, one pool of actors per stage; `out` has to lie where all machines see it.

    A model that has to stay alone of its kind (a composer with a budget) gets one actor in any case.

    Args:
        workers: actors of each pool, by stage name; `default_workers` for the others.
        default_workers: actors of a pool that isn't named.
        cpus: CPUs that each actor asks for; by default a whole one, or the largest of 1/2, 1/3, ... that has
            room for all. Those without a place would wait for ever: a plan that has any is refused.
        gpus: share of a GPU of each actor, by stage name; by default the model's own `gpu_share` where the
            cluster has GPUs.
        address: of a running cluster, as in `ray.init`; without one, Ray starts on this machine.
    """

    workers: dict[str, int] | None = None
    default_workers: int = 1
    cpus: float | None = None
    gpus: dict[str, float] | None = None
    address: str | None = None

    def run(
        self, shards: Sequence[Shard], stages: Sequence[Stage], folder: Path, advance: ProgressCallback | None
    ) -> Iterator[list[StageStatistics]]:
        """Commit each shard in `folder`, and say what was done for it."""
        if not shards:
            return
        import ray

        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False, include_dashboard=False)
        cluster = ray.cluster_resources()
        actors = self.plan(stages, cluster)
        data = ray.data.from_items(
            [{"work": pickle.dumps(ShardTask(shard))} for shard in shards], override_num_blocks=len(shards)
        )
        share = self.share(actors, cluster)
        options: dict[str, Any] = {"batch_size": 1, "batch_format": "numpy", "num_cpus": share}
        data = data.map_batches(_start, **options)
        for stage, (count, gpus) in zip(stages, actors, strict=True):
            data = data.map_batches(
                StageActor,
                fn_constructor_args=(stage,),
                compute=ray.data.ActorPoolStrategy(size=count),
                num_gpus=gpus or None,
                **options,
            )
        data = data.map_batches(_finisher(stages, folder), **options)
        for row in data.iter_rows():
            count, tallies = pickle.loads(row["work"])
            for tally in tallies if advance else ():
                advance(tally.stage, count - tally.asked, True)
                advance(tally.stage, tally.asked, False)
            yield tallies

    def plan(self, stages: Sequence[Stage], cluster: dict[str, float]) -> list[tuple[int, float]]:
        """Actors of each stage, and the share of a GPU that each gets, on a cluster of these resources.

        Raises:
            ValueError: the actors would need more than the cluster has, and would wait for ever.
        """
        here = cluster.get("GPU", 0)
        shares = {s.name: s.model.gpu_share if here else 0.0 for s in stages} | (self.gpus or {})
        counts = {s.name: self.default_workers for s in stages} | (self.workers or {})
        if unknown := (set(shares) | set(counts)) - {stage.name for stage in stages}:
            known = ", ".join(stage.name for stage in stages)
            raise ValueError(f"There is no stage {min(unknown)!r}: the stages are {known}.")
        actors = [(self._count(stage, counts), shares[stage.name]) for stage in stages]
        cpus = self.share(actors, cluster) * _processes(actors)
        gpus = sum(count * share for count, share in actors)
        for what, needed, there in (("CPUs", cpus, cluster.get("CPU", 0)), ("GPUs", gpus, here)):
            if needed > there:
                raise ValueError(
                    f"The actors need {needed:g} {what}, the cluster has {there:g}: they would wait for each "
                    "other for ever. Take fewer workers, or smaller shares of each."
                )
        return actors

    def share(self, actors: Sequence[tuple[int, float]], cluster: dict[str, float]) -> float:
        """CPUs that each process asks for.

        Where none are given, a part of one that divides it, so that no machine is left with a rest.
        """
        if self.cpus is not None:
            return self.cpus
        parts = max(1, math.ceil(_processes(actors) / max(1.0, cluster.get("CPU", 0))))
        return math.floor(_FINEST / parts) / _FINEST

    def _count(self, stage: Stage, counts: dict[str, int]) -> int:
        if not stage.model.alone:
            return counts[stage.name]
        if (self.workers or {}).get(stage.name, 1) > 1:
            raise ValueError(
                f"The stage {stage.name} can have one worker only, since its budget is one: it asks several "
                "things at once within it."
            )
        return 1


def _processes(actors: Sequence[tuple[int, float]]) -> int:
    return sum(count for count, _ in actors) + 2  # reading and committing need some too


def _start(batch: dict[str, Any]) -> dict[str, Any]:
    return _mapped(lambda work: pickle.dumps(start(work.shard)), batch)


def _finisher(stages: Sequence[Stage], folder: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The last step: commits a shard and passes on only what was done."""

    def finished(work: ShardTask) -> bytes:
        return pickle.dumps((len(work.items), finish(work, stages, folder)))

    return lambda batch: _mapped(finished, batch)
