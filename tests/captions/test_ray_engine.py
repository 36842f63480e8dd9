"""The Ray engine: its plans, and the same records as in one process."""

import importlib.util
import os
import sys
import time
from dataclasses import replace

import pytest
from PIL import Image

from monkeylib.captions import input_images, pipeline, ray_engine
from monkeylib.captions.composers import chat
from monkeylib.captions.engines import LocalEngine
from monkeylib.captions.failures import StageFailed
from monkeylib.captions.ray_engine import Pool, RayEngine
from monkeylib.captions.record_files import read_records
from monkeylib.images import read_image
from tests.support import ray_stand_in
from tests.support.caption_models import ChecksumMatcher, Colours
from tests.support.caption_runs import IMAGES, build_pipeline, outcome, run_pipeline
from tests.support.fatal_experts import Fatal, Slow, images


@pytest.mark.parametrize(
    ("engine", "complaint"),
    [
        (RayEngine(cpus=1), "need 7 CPUs, the cluster has 2"),
        (RayEngine(workers={"colours": 9}, cpus=0.25), "need 3.75 CPUs, the cluster has 2"),
        (RayEngine(gpus={"colours": 0.5}), "need 0.5 GPUs, the cluster has 0"),
        (RayEngine(workers={"sam": 2}), "no stage 'sam': the stages are colours, halves, halves.shades"),
        (RayEngine(workers={"colours": (3, 2)}), "bounds are in order: got 3-2"),
        (RayEngine(default_workers=(0, 2)), "at least one worker, and its bounds are in order: got 0-2"),
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

    assert engine.plan(stages, {"CPU": 4.0, "GPU": 2.0}) == [Pool(3, 3, 3, 0.5), Pool(1, 1, 1)]
    assert engine.plan(stages, {"CPU": 4.0}) == [Pool(3, 3, 3), Pool(1, 1, 1)]


class Sharing(Colours):
    def __init__(self, name, share):
        super().__init__()
        self.name, self.gpu_share = name, share


@pytest.mark.parametrize(
    ("shares", "cluster", "first", "most"),
    [
        ((0.5, 0.25), {"CPU": 99.0, "GPU": 4.0}, [5, 5, 5], [7, 14, 95]),
        ((0.6,), {"CPU": 99.0, "GPU": 4.0}, [4, 4], [4, 96]),
        ((2.0, 0.5), {"CPU": 99.0, "GPU": 5.0}, [2, 2, 2], [2, 6, 95]),
        ((0.5,), {"CPU": 8.0, "GPU": 32.0}, [3, 3], [5, 5]),
        ((0.5,), {"CPU": 8.0}, [3, 3], [5, 5]),
        ((0.5,), {"CPU": 2.0}, [1, 1], [1, 1]),
    ],
)
def test_actors_fill_the_cluster_by_default(tmp_path, shares, cluster, first, most):
    experts = [Sharing(f"expert {number}", share) for number, share in enumerate(shares)]
    stages = pipeline.Pipeline(experts).stages(tmp_path)
    pools = RayEngine().plan(stages, cluster)
    assert [pool.first for pool in pools] == first and [pool.most for pool in pools] == most
    assert {pool.least for pool in pools} == {1}
    # What is named stays.
    named = RayEngine(workers={"expert 0": 1}).plan(stages, cluster)
    assert (named[0].least, named[0].most) == (1, 1) and named[-1].first >= first[-1]


def test_named_bounds_are_those_of_the_pool(tmp_path):
    stages = build_pipeline().stages(tmp_path)
    pools = RayEngine(workers={"colours": (2, 5)}, default_workers=(1, 3)).plan(stages, {"CPU": 16.0})
    assert pools == [Pool(2, 5, 2), *[Pool(1, 3, 1)] * (len(stages) - 1)]


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
        assert plan == [Pool(4, 4, 4), Pool(count, count, count)]

    with pytest.raises(ValueError, match="stage chat can have one worker only"):
        RayEngine(workers={"chat": 2}).plan(stages, {"CPU": 8.0})


def test_unreadable_image_loses_no_other_of_its_shard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", ray_stand_in.module(cpus=2.0))
    home = tmp_path / "images"
    home.mkdir()
    # A file name that is not UTF-8, which only bytes can express.
    for name in (b"caf\xe9.png", b"broken.png"):
        Image.new("RGB", (12, 8), (9, 200, 9)).save(home / "new.png")
        os.rename(home / "new.png", os.path.join(os.fsencode(home), name))

    def read_or_fail(image):
        if image.name == "broken.png":
            raise EOFError("the plugin gave up")
        return read_image(image)

    monkeypatch.setattr(input_images, "read_image", read_or_fail)
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


def test_actor_pools_give_the_same_records(image_folder, uninterrupted_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", ray_stand_in.module(cpus=2.0))
    engine = RayEngine(workers={"colours": 2})
    summary = run_pipeline(image_folder, tmp_path, engine)

    assert outcome(tmp_path) == outcome(uninterrupted_run[1])

    pooled, local = (
        {stage.stage: (stage.computed, stage.failed) for stage in run.stages}
        for run in (summary, uninterrupted_run[0])
    )

    assert pooled == local and summary.shards == 13
    # Loading, five stages and committing: actors, CPUs and GPUs of each step.
    assert [step[1:] for step in ray_stand_in.LAST.steps] == [
        (count, 0.25, None) for count in (1, 2, 1, 1, 1, 1, 1)
    ]

    assert run_pipeline(image_folder, tmp_path, engine).already == 13

    again = run_pipeline(image_folder, tmp_path, engine, retry_failed=True)
    assert again.already == 13 - 4, "only shards with failures are run again"
    assert outcome(tmp_path) == outcome(uninterrupted_run[1])


def test_image_is_decoded_once_unless_it_is_large(image_folder, uninterrupted_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", ray_stand_in.module(cpus=2.0))
    decoded = []
    read = input_images.read_image
    monkeypatch.setattr(input_images, "read_image", lambda content: decoded.append(content) or read(content))

    # Of 12 x 8 pixels each: parts have up to five images, though four are decoded at a time.
    monkeypatch.setattr(ray_engine, "_PART_PIXELS", 5 * 12 * 8)
    run_pipeline(image_folder, tmp_path / "once", RayEngine())
    assert len(decoded) == IMAGES
    assert outcome(tmp_path / "once") == outcome(uninterrupted_run[1])

    # Those that are larger than a part are read again by each of the four stages that read images.
    decoded.clear()
    monkeypatch.setattr(ray_engine, "_PART_PIXELS", 12 * 8 - 1)
    run_pipeline(image_folder, tmp_path / "again", RayEngine())
    assert len(decoded) > 3 * IMAGES
    assert outcome(tmp_path / "again") == outcome(uninterrupted_run[1])


class Blind(Colours):
    def annotate(self, images):
        raise RuntimeError("sees nothing")


def test_stage_that_fails_on_everything_ends_the_run(image_folder, tmp_path, monkeypatch):
    ray = ray_stand_in.module(cpus=2.0)
    monkeypatch.setitem(sys.modules, "ray", ray)

    # Ray raises an error of its own around that of an actor.
    class RayTaskError(Exception):
        def __init__(self, cause):
            super().__init__(f"a traceback of many lines: {cause}")
            self.cause = cause

    iterate = ray_stand_in.Dataset.iter_rows

    def iter_rows(dataset):
        try:
            yield from iterate(dataset)
        except ValueError as error:
            raise RayTaskError(error) from None

    monkeypatch.setattr(ray_stand_in.Dataset, "iter_rows", iter_rows)
    inputs = input_images.find_images([image_folder])[:40]
    with pytest.raises(StageFailed, match="^The stage colours failed on .*sees nothing"):
        pipeline.Pipeline([Blind()]).run(inputs, tmp_path / "out", engine=RayEngine(), progress=False)


def _kill_a_worker(image_folder, out):
    """Kill one of Ray's workers of a stage, once the first results are cached."""
    import psutil

    while not any(path.stat().st_size for path in out.glob("annotations/*/*/*.results")):
        time.sleep(0.05)
    for process in psutil.Process().children(recursive=True):
        if "StageActor" in " ".join(process.cmdline()) or "MapWorker" in process.name():
            process.kill()
            return


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray[data]")
def test_ray_gives_the_same_records_even_if_a_worker_is_killed(image_folder, uninterrupted_run, tmp_path):
    import threading

    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        killer = threading.Thread(target=_kill_a_worker, args=(image_folder, tmp_path), daemon=True)
        killer.start()
        summary = run_pipeline(image_folder, tmp_path, RayEngine(workers={"colours": 2}))
        assert not killer.is_alive()
    finally:
        ray.shutdown()

    assert outcome(tmp_path) == outcome(uninterrupted_run[1])
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
