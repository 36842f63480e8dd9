"""Killed at any moment, a run ends as if it had not been; and the records are those of Ray."""

import importlib.util
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray_stand_in
from caption_models import Colours, Halves, Shades, Tally
from PIL import Image

from monkeylib.captions import pipeline, sources
from monkeylib.captions.engines import LocalEngine, RayEngine
from monkeylib.captions.experts.segments import DescribedSegments
from monkeylib.captions.files import read_records

PICTURES, SHARD = 500, 40
PRELOADED = ["monkeylib.captions.pipeline", "monkeylib.captions.experts", "pyarrow.parquet", "pytest"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """500 small pictures of chance; three are black, which an expert refuses, and one is half a file."""
    home, chance = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    colours = chance.integers(1, 255, (PICTURES, 2, 3, 3), dtype=np.uint8)
    colours[[7, 250, 499]] = 0
    for number, pixels in enumerate(colours):
        Image.fromarray(pixels).resize((12, 8), Image.Resampling.NEAREST).save(home / f"{number:03d}.png")
    (home / "100.png").write_bytes((home / "100.png").read_bytes()[:50])
    return home


def work():
    experts = [Colours(), DescribedSegments(Halves(), Shades())]
    return pipeline.Pipeline(experts, Tally(), batch_size=16)


def describe(folder, out, engine=None):
    return work().describe(sources.find([folder]), out, engine=engine, shard_size=SHARD, progress=False)


def outcome(out: Path) -> tuple[bytes, list[dict]]:
    """What must not depend on who ran the pipeline, and how often it was killed."""
    return (out / "records.jsonl").read_bytes(), json.loads((out / "manifest.json").read_text())["shards"]


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return describe(folder, out), out


def test_every_picture_has_one_record_and_each_failure_is_one_too(folder, uninterrupted):
    summary, out = uninterrupted
    records = list(read_records(out / pipeline.RECORDS))
    assert [record.name for record in records] == [f"{n:03d}.png" for n in range(PICTURES)]
    failed = {record.name: [f.stage for f in record.failures] for record in records if record.failures}
    assert failed == {
        "007.png": ["colours"], "100.png": ["read"], "250.png": ["colours"], "499.png": ["colours"]
    }  # fmt: skip
    assert {record.status for record in records if record.name not in failed} == {"ok"}
    assert summary.failed == 4 and summary.records == PICTURES and summary.shards == 13
    assert [record.status for record in records if record.failures].count("failed") == 1


def _killed(folder, out, events: int) -> None:
    """Run the pipeline in a process of its own, and kill it when `events` more files have appeared."""
    before = files(out)
    child = multiprocessing.get_context("forkserver").Process(target=describe, args=(folder, out))
    child.start()
    while child.is_alive() and files(out) - before < events:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL, "it ended before it was killed"


def files(out: Path) -> int:
    return sum(1 for path in out.rglob("*") if path.is_file())


def test_killed_five_times_it_ends_as_if_it_had_not_been(folder, uninterrupted, tmp_path):
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    chance = random.Random(0)
    done = []
    for _ in range(5):
        _killed(folder, tmp_path, chance.randint(1, 260))
        done.append(len(list(tmp_path.glob("shards/*.json"))))
    assert done == sorted(done) and 0 < done[-1] < 13, "each run goes on where the one before was killed"
    summary = describe(folder, tmp_path)
    assert outcome(tmp_path) == outcome(uninterrupted[1])
    assert summary.already > 0
    asked = {tally.stage: tally.asked for tally in summary.stages}
    assert asked["halves"] < PICTURES - 1, "what was found before a kill isn't asked again"


def test_a_torn_or_changed_shard_is_done_again(folder, uninterrupted, tmp_path):
    few = sources.find([folder])[:8]

    def again():
        return work().describe(few, tmp_path, shard_size=2, retry_failed=False, progress=False)

    assert again().already == 0
    whole = outcome(tmp_path)
    first, second, third, _ = sorted(tmp_path.glob("shards/*.parquet"))
    first.write_bytes(first.read_bytes()[:-20])
    second.unlink()
    third.with_suffix(".json").write_text('{"records": 2')
    assert again().already == 1 and outcome(tmp_path) == whole


def test_a_shard_with_failures_is_tried_again_unless_told_otherwise(folder, tmp_path):
    few = sources.find([folder])[5:9]
    options = {"shard_size": 2, "progress": False}
    work().describe(few, tmp_path, **options)
    assert work().describe(few, tmp_path, **options).already == 1  # the black picture is in the other
    assert work().describe(few, tmp_path, retry_failed=False, **options).already == 2


def test_low_memory_frees_each_model_and_changes_nothing(folder, uninterrupted, tmp_path):
    freed = []

    class Heavy(Colours):
        def release(self):
            freed.append(self.name)

    few = sources.find([folder])[:4]
    for place, engine in (("a", LocalEngine()), ("b", LocalEngine(low_memory=True))):
        pipeline.Pipeline([Heavy()]).describe(
            few, tmp_path / place, engine=engine, shard_size=2, progress=False
        )
    assert freed == ["colours"] * 2 and outcome(tmp_path / "a") == outcome(tmp_path / "b")


# --- Ray ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "complaint"),
    [
        (RayEngine(cpus=1), "need 7 CPUs, the cluster has 2"),
        (RayEngine(workers={"colours": 9}), "need 3.75 CPUs, the cluster has 2"),
        (RayEngine(gpus={"colours": 0.5}), "need 0.5 GPUs, the cluster has 0"),
        (RayEngine(workers={"sam": 2}), "no stage 'sam': the stages are colours, halves, halves.shades"),
    ],
)
def test_a_plan_that_would_hang_is_refused(tmp_path, engine, complaint):
    with pytest.raises(ValueError, match=complaint):
        engine.plan(work().stages(tmp_path), {"CPU": 2.0})


def test_a_model_gets_its_share_of_a_gpu_where_there_are_gpus(tmp_path):
    class OnGpu(Colours):
        gpu_share = 0.5

    stages = pipeline.Pipeline([OnGpu()]).stages(tmp_path)
    engine = RayEngine(workers={"colours": 3})
    assert engine.plan(stages, {"CPU": 4.0, "GPU": 2.0}) == [(3, 0.5), (1, 0.0)]
    assert engine.plan(stages, {"CPU": 4.0}) == [(3, 0.0), (1, 0.0)]


def test_stages_in_pools_give_the_same_records(folder, uninterrupted, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", ray_stand_in.module(cpus=2.0))
    engine = RayEngine(workers={"colours": 2})
    summary = describe(folder, tmp_path, engine)
    assert outcome(tmp_path) == outcome(uninterrupted[1])
    ours, theirs = ({t.stage: (t.asked, t.failed) for t in s.stages} for s in (summary, uninterrupted[0]))
    assert ours == theirs and summary.shards == 13
    assert [step[1:] for step in ray_stand_in.LAST.steps] == [
        (1, 0.25, None), (2, 0.25, None), (1, 0.25, None), (1, 0.25, None), (1, 0.25, None), (1, 0.25, None),
        (1, 0.25, None),
    ]  # fmt: skip
    again = describe(folder, tmp_path, engine)
    assert again.already == 13 - 4, "only shards with failures are tried again"
    assert outcome(tmp_path) == outcome(uninterrupted[1])


def _kill_a_worker(folder, out):
    """Kill one of Ray's workers of a stage, once the first findings have appeared."""
    import psutil

    while not list(out.glob("findings/*/*/*/*.json")):
        time.sleep(0.05)
    for process in psutil.Process().children(recursive=True):
        if "StageActor" in " ".join(process.cmdline()) or "MapWorker" in process.name():
            process.kill()
            return


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray[data]")
def test_ray_gives_the_same_records_also_when_a_worker_is_killed(folder, uninterrupted, tmp_path):
    import threading

    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        killer = threading.Thread(target=_kill_a_worker, args=(folder, tmp_path), daemon=True)
        killer.start()
        summary = describe(folder, tmp_path, RayEngine(workers={"colours": 2}))
        assert not killer.is_alive()
    finally:
        ray.shutdown()
    assert outcome(tmp_path) == outcome(uninterrupted[1])
    assert summary.records == PICTURES and summary.failed == 4
