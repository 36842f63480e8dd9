"""A run that is killed gives the same records as one that is not, and so does Ray."""

import importlib.util
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monkeylib.captions import input_images, pipeline
from monkeylib.captions.composers import chat
from monkeylib.captions.experts.segments import CaptionedSegments
from monkeylib.captions.pipeline import LocalEngine
from monkeylib.captions.ray_engine import RayEngine
from monkeylib.captions.record_files import read_records
from monkeylib.images import open_image
from tests.support import ray_stand_in
from tests.support.caption_models import ChecksumMatcher, Colours, Halves, Shades
from tests.support.fatal_experts import Fatal, Slow, images

IMAGES, SHARD = 500, 40
PRELOADED = ["monkeylib.captions.pipeline", "monkeylib.captions.experts", "pyarrow.parquet", "pytest"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """500 small random images; three are black, which an expert refuses, and one file is truncated."""
    home = tmp_path_factory.mktemp("images")
    colours = np.random.default_rng(0).integers(1, 255, (IMAGES, 2, 3, 3), dtype=np.uint8)
    colours[[7, 250, 499]] = 0
    for number, pixels in enumerate(colours):
        Image.fromarray(pixels).resize((12, 8), Image.Resampling.NEAREST).save(home / f"{number:03d}.png")
    (home / "100.png").write_bytes((home / "100.png").read_bytes()[:50])
    return home


def build_pipeline():
    experts = [Colours(), CaptionedSegments(Halves(), Shades())]
    return pipeline.Pipeline(experts, ChecksumMatcher(), batch_size=16)


def run_pipeline(folder, out, engine=None):
    return build_pipeline().run(
        input_images.find_images([folder]), out, engine=engine, shard_size=SHARD, progress=False
    )


def outcome(out: Path) -> tuple[bytes, list[dict]]:
    """Files that must not depend on the engine, nor on how often the run was killed."""
    return (out / "records.jsonl").read_bytes(), json.loads((out / "manifest.json").read_text())["shards"]


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    return run_pipeline(folder, out), out


def test_every_image_has_a_record_and_failures_are_recorded(folder, uninterrupted):
    summary, out = uninterrupted
    records = list(read_records(out / pipeline.RECORDS))

    assert [record.name for record in records] == [f"{n:03d}.png" for n in range(IMAGES)]

    failed = {record.name: [f.stage for f in record.failures] for record in records if record.failures}
    assert failed == {
        "007.png": ["colours"], "100.png": ["read"], "250.png": ["colours"], "499.png": ["colours"]
    }  # fmt: skip
    assert {record.status for record in records if record.name not in failed} == {"ok"}
    assert summary.failed == 4 and summary.records == IMAGES and summary.shards == 13
    # Images that only one expert refused have other annotations.
    assert [record.status for record in records if record.failures].count("failed") == 1


def run_and_kill(folder, out, events: int) -> None:
    """Run the pipeline in another process, and kill it when `events` more files have appeared."""
    before = files(out)
    child = multiprocessing.get_context("forkserver").Process(target=run_pipeline, args=(folder, out))
    child.start()
    while child.is_alive() and files(out) - before < events:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.join()

    assert child.exitcode == -signal.SIGKILL, "the process ended before it was killed"


def files(out: Path) -> int:
    return sum(1 for path in out.rglob("*") if path.is_file())


def test_run_that_is_killed_five_times_gives_the_same_records(folder, uninterrupted, tmp_path):
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    rng = random.Random(0)
    # Killed at random moments: before, between and within shards.
    committed_counts = []
    for _ in range(5):
        run_and_kill(folder, tmp_path, rng.randint(1, 260))
        committed_counts.append(len(list(tmp_path.glob("shards/*.json"))))

    assert committed_counts == sorted(committed_counts), "each run continues the one before"
    assert 0 < committed_counts[-1] < 13

    summary = run_pipeline(folder, tmp_path)
    assert outcome(tmp_path) == outcome(uninterrupted[1])
    assert summary.already > 0

    computed = {stage.stage: stage.computed for stage in summary.stages}
    assert computed["halves"] < IMAGES - 1, "results from before a kill are cached"


def test_damaged_shard_is_run_again(folder, uninterrupted, tmp_path):
    few = input_images.find_images([folder])[:8]

    def run_again():
        return build_pipeline().run(few, tmp_path, shard_size=2, retry_failed=False, progress=False)

    assert run_again().already == 0

    expected = outcome(tmp_path)
    first, second, third, _ = sorted(tmp_path.glob("shards/*.parquet"))
    # A truncated shard, a missing one, and one with a damaged entry; the fourth is intact.
    first.write_bytes(first.read_bytes()[:-20])
    second.unlink()
    third.with_suffix(".json").write_text('{"records": 2')

    assert run_again().already == 1 and outcome(tmp_path) == expected


def test_shard_with_failures_is_run_again_unless_told_otherwise(folder, tmp_path):
    few = input_images.find_images([folder])[5:9]
    options = {"shard_size": 2, "progress": False}
    build_pipeline().run(few, tmp_path, **options)

    assert build_pipeline().run(few, tmp_path, **options).already == 1, (
        "the black image is in the other shard"
    )
    assert build_pipeline().run(few, tmp_path, retry_failed=False, **options).already == 2


def test_low_memory_releases_each_model_and_changes_nothing(folder, uninterrupted, tmp_path):
    released = []

    class Heavy(Colours):
        def release(self):
            released.append(self.name)

    few = input_images.find_images([folder])[:4]
    for name, engine in (("a", LocalEngine()), ("b", LocalEngine(low_memory=True))):
        pipeline.Pipeline([Heavy()]).run(few, tmp_path / name, engine=engine, shard_size=2, progress=False)

    assert released == ["colours"] * 2 and outcome(tmp_path / "a") == outcome(tmp_path / "b")


# --- Ray ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "complaint"),
    [
        (RayEngine(cpus=1), "need 7 CPUs, the cluster has 2"),
        (RayEngine(workers={"colours": 9}, cpus=0.25), "need 3.75 CPUs, the cluster has 2"),
        (RayEngine(gpus={"colours": 0.5}), "need 0.5 GPUs, the cluster has 0"),
        (RayEngine(workers={"sam": 2}), "no stage 'sam': the stages are colours, halves, halves.shades"),
    ],
)
def test_plan_that_would_hang_raises(tmp_path, engine, complaint):
    with pytest.raises(ValueError, match=complaint):
        engine.plan(build_pipeline().stages(tmp_path), {"CPU": 2.0})


def test_model_gets_its_share_of_a_gpu_where_there_are_gpus(tmp_path):
    class OnGpu(Colours):
        gpu_share = 0.5

    stages = pipeline.Pipeline([OnGpu()]).stages(tmp_path)
    engine = RayEngine(workers={"colours": 3})

    assert engine.plan(stages, {"CPU": 4.0, "GPU": 2.0}) == [(3, 0.5), (1, 0.0)]
    assert engine.plan(stages, {"CPU": 4.0}) == [(3, 0.0), (1, 0.0)]


def planned_share(stages, cluster, **options):
    engine = RayEngine(**options)
    return engine.cpu_share(engine.plan(stages, cluster), cluster)


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 7, 8, 64])
def test_default_cpu_shares_fit_every_machine(tmp_path, cpus):
    stages = build_pipeline().stages(tmp_path)
    for workers in (1, 3, 8):
        needed = 2 + workers * len(stages)
        # One machine with all CPUs, and as many machines with one CPU each.
        for machines in {1, cpus}:
            share = planned_share(stages, {"CPU": float(cpus)}, default_workers=workers)
            processes = machines * int(cpus / machines / share + 1e-9)
            assert 0 < share <= 1 and processes >= needed

    assert planned_share(stages, {"CPU": 64.0}) == 1


def test_many_stages_fit_two_cpus_by_default(tmp_path):
    stages = pipeline.Pipeline([Colours(number=n) for n in range(9)], ChecksumMatcher()).stages(tmp_path)
    assert planned_share(stages, {"CPU": 2.0}) == pytest.approx(1 / 7, abs=1e-4)


def test_composer_with_a_budget_gets_one_actor(tmp_path, monkeypatch):
    monkeypatch.setenv("MONKEYLIB_CHAT_MODEL", "some-model")
    for limits, count in (({}, 4), ({"maximum_tokens": 1000}, 1)):
        composer = chat.ChatComposer(tmp_path / "chat", **limits)
        stages = pipeline.Pipeline([Colours()], composer=composer).stages(tmp_path)
        plan = RayEngine(default_workers=4).plan(stages, {"CPU": 8.0})
        assert plan == [(4, 0.0), (count, 0.0)]

    with pytest.raises(ValueError, match="stage chat can have one worker only"):
        RayEngine(workers={"chat": 2}).plan(stages, {"CPU": 8.0})


def test_paths_are_absolute_for_workers_in_other_folders(folder, tmp_path, monkeypatch):
    """Workers have another working folder than the process that they work for."""
    paths = []

    class Elsewhere(LocalEngine):
        def run(self, shards, stages, place, advance):
            (tmp_path / "elsewhere").mkdir()
            monkeypatch.chdir(tmp_path / "elsewhere")
            paths.append([place, *(image.image for shard in shards for image in shard.images)])
            yield from super().run(shards, stages, place, advance)

    monkeypatch.chdir(folder)
    inputs = input_images.find_images([Path("001.png"), Path("100.png")])
    build_pipeline().run(inputs, Path("..") / "out", engine=Elsewhere(), progress=False)

    assert all(path.is_absolute() for path in paths[0])

    ok_record, failed_record = read_records(folder.parent / "out" / pipeline.RECORDS)
    assert ok_record.status == "ok" and str(folder) not in failed_record.failures[0].error
    assert not list((tmp_path / "elsewhere").iterdir())


def test_unreadable_image_loses_no_other_of_its_shard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", ray_stand_in.module(cpus=2.0))
    home = tmp_path / "images"
    home.mkdir()
    # A file name that is not UTF-8, which only bytes can express.
    for name in (b"caf\xe9.png", b"broken.png"):
        Image.new("RGB", (8, 6), (9, 200, 9)).save(home / "new.png")
        os.rename(home / "new.png", os.path.join(os.fsencode(home), name))

    def open_or_fail(image):
        if image.name == "broken.png":
            raise EOFError("the plugin gave up")
        return open_image(image)

    monkeypatch.setattr(input_images, "open_image", open_or_fail)
    inputs = []
    for input_image in input_images.find_images([home]):
        inputs.append(replace(input_image, original_caption="a \ud800 caption"))
    for engine in (LocalEngine(), RayEngine()):
        out = tmp_path / type(engine).__name__
        build_pipeline().run(inputs, out, engine=engine, progress=False)
        # Bytes that are not UTF-8 are escaped in the name, and so is the surrogate in the caption.
        broken, renamed = read_records(out / pipeline.RECORDS)
        assert (broken.status, broken.failures[0].stage) == ("failed", "read")
        assert (renamed.status, renamed.name) == ("ok", "caf\\udce9.png")


def test_actor_pools_give_the_same_records(folder, uninterrupted, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", ray_stand_in.module(cpus=2.0))
    engine = RayEngine(workers={"colours": 2})
    summary = run_pipeline(folder, tmp_path, engine)

    assert outcome(tmp_path) == outcome(uninterrupted[1])

    pooled, local = (
        {stage.stage: (stage.computed, stage.failed) for stage in run.stages}
        for run in (summary, uninterrupted[0])
    )

    assert pooled == local and summary.shards == 13
    # Loading, five stages and committing: actors, CPUs and GPUs of each step.
    assert [step[1:] for step in ray_stand_in.LAST.steps] == [
        (count, 0.25, None) for count in (1, 2, 1, 1, 1, 1, 1)
    ]

    again = run_pipeline(folder, tmp_path, engine)
    assert again.already == 13 - 4, "only shards with failures are run again"
    assert outcome(tmp_path) == outcome(uninterrupted[1])


def _kill_a_worker(folder, out):
    """Kill one of Ray's workers of a stage, once the first results are cached."""
    import psutil

    while not list(out.glob("annotations/*/*/*/*.json")):
        time.sleep(0.05)
    for process in psutil.Process().children(recursive=True):
        if "StageActor" in " ".join(process.cmdline()) or "MapWorker" in process.name():
            process.kill()
            return


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray[data]")
def test_ray_gives_the_same_records_even_if_a_worker_is_killed(folder, uninterrupted, tmp_path):
    import threading

    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        killer = threading.Thread(target=_kill_a_worker, args=(folder, tmp_path), daemon=True)
        killer.start()
        summary = run_pipeline(folder, tmp_path, RayEngine(workers={"colours": 2}))
        assert not killer.is_alive()
    finally:
        ray.shutdown()

    assert outcome(tmp_path) == outcome(uninterrupted[1])
    assert summary.records == IMAGES and summary.failed == 4


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray[data]")
def test_ray_quarantines_crashing_images_and_kills_hanging_ones(tmp_path):
    import ray

    home = images(tmp_path / "images")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        for name, expert, limit in (("ends", Fatal(), None), ("hangs", Slow(), 5)):
            captioner = pipeline.Pipeline([expert], batch_size=4, time_limit=limit)
            captioner.run(
                input_images.find_images([home]), tmp_path / name, engine=RayEngine(), progress=False
            )
    finally:
        ray.shutdown()

    for name, message in (("ends", "crashed the process 3 times"), ("hangs", "no result within 5 seconds")):
        records = list(read_records(tmp_path / name / pipeline.RECORDS))
        assert [len(record.regions) for record in records] == [1, 1, 0, 1, 1]
        assert message in records[2].failures[0].error
