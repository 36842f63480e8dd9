"""A run that is killed, or that finds damaged shards, gives the same records as one that is not."""

import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from monkeylib.captions import input_images, pipeline
from monkeylib.captions.engines import LocalEngine
from monkeylib.captions.record_files import read_records
from tests.support.caption_models import Colours
from tests.support.caption_runs import IMAGES, build_pipeline, outcome, run_pipeline

PRELOADED = ["monkeylib.captions.pipeline", "monkeylib.captions.experts", "pyarrow.parquet", "pytest"]


def test_every_image_has_a_record_and_failures_are_recorded(image_folder, uninterrupted_run):
    summary, out = uninterrupted_run
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


def run_and_kill(image_folder, out, events: int) -> None:
    """Run the pipeline in another process, and kill it when `events` more results and shards are there."""
    before = progress(out)
    child = multiprocessing.get_context("forkserver").Process(target=run_pipeline, args=(image_folder, out))
    child.start()
    while child.is_alive() and progress(out) - before < events:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.join()

    assert child.exitcode == -signal.SIGKILL, "the process ended before it was killed"


def progress(out: Path) -> int:
    results = sum(path.read_bytes().count(b"\n") for path in out.glob("annotations/*/*/*.results"))
    return results + len(list(out.glob("shards/[0-9]*.parquet")))


def test_run_that_is_killed_five_times_gives_the_same_records(image_folder, uninterrupted_run, tmp_path):
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    rng = random.Random(0)
    # Killed at random moments: before, between and within shards.
    committed_counts = []
    for _ in range(5):
        run_and_kill(image_folder, tmp_path, rng.randint(1, 260))
        committed_counts.append(len(list(tmp_path.glob("shards/[0-9]*.parquet"))))

    assert committed_counts == sorted(committed_counts), "each run continues the one before"
    assert 0 < committed_counts[-1] < 13

    summary = run_pipeline(image_folder, tmp_path)
    assert outcome(tmp_path) == outcome(uninterrupted_run[1])
    assert summary.already > 0

    computed = {stage.stage: stage.computed for stage in summary.stages}
    assert computed["halves"] < IMAGES - 1, "results from before a kill are cached"


def caption_few(image_folder, out):
    """Run the pipeline over a few images, one of them unreadable, in shards of two."""
    few = input_images.find_images([image_folder])[94:104]
    build_pipeline().run(few, out, shard_size=2, progress=False)


def test_kills_at_any_moment_lose_double_and_tear_nothing(image_folder, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    start = time.perf_counter()
    caption_few(image_folder, tmp_path / "uninterrupted")
    seconds, expected = time.perf_counter() - start, outcome(tmp_path / "uninterrupted")

    rng = random.Random(0)
    kills = finished_runs = 0
    while kills < 16 or not finished_runs:
        out = tmp_path / str(finished_runs)
        child = context.Process(target=caption_few, args=(image_folder, out))
        child.start()
        child.join(rng.uniform(0, seconds))
        child.kill()
        child.join()

        # Whatever bears its final name is whole, at any moment.
        if (out / "records.jsonl").exists():
            assert (out / "records.jsonl").read_bytes() == expected[0]
        for shard in out.glob("shards/[0-9]*.parquet"):
            assert len(list(read_records(shard))) == 2

        kills += child.exitcode == -signal.SIGKILL
        # After some kills, one is let through.
        if child.exitcode == 0 or kills % 8 == 7:
            caption_few(image_folder, out)
            assert outcome(out) == expected
            assert sorted(path.name for path in out.iterdir()) == [
                "annotations", "manifest.json", "records.jsonl", "run.json", "shards", "summary.json"
            ]  # fmt: skip
            assert not list(out.rglob(".*"))
            finished_runs += 1


def test_note_of_a_run_killed_before_it_was_complete_is_removed(image_folder, tmp_path, monkeypatch):
    def stop(path, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop)
        with pytest.raises(KeyboardInterrupt):
            caption_few(image_folder, tmp_path)
    assert list(tmp_path.glob("annotations/*/*/working/.*"))

    caption_few(image_folder, tmp_path)
    assert not list(tmp_path.glob("annotations/*/*/working/.*"))


def test_many_images_leave_no_handles_threads_or_locks(tmp_path):
    """2,000 images in miniature; `make torture` runs ten times as many."""
    sources = []
    for number in range(2000):
        colour = (1 + number % 250, 1 + number // 250, 9)
        sources.append(pipeline.InputImage(Image.new("RGB", (8, 8), colour), f"{number:04d}"))

    usage = []

    class Watching(LocalEngine):
        def run(self, *arguments):
            for statistics in super().run(*arguments):
                usage.append((len(os.listdir("/proc/self/fd")), threading.active_count()))
                yield statistics

    run = pipeline.Pipeline([Colours()], batch_size=64)
    summary = run.run(sources, tmp_path, engine=Watching(), shard_size=200, progress=False)

    assert summary.described == 2000 and len(usage) == 10
    handles, threads = zip(*usage, strict=True)
    assert max(handles[1:]) <= handles[0] and max(threads[1:]) <= threads[0]
    assert not list(tmp_path.rglob(".*"))


def test_damaged_shard_is_run_again(image_folder, uninterrupted_run, tmp_path):
    few = input_images.find_images([image_folder])[:8]

    def run_again():
        return build_pipeline().run(few, tmp_path, shard_size=2, progress=False)

    assert run_again().already == 0

    expected = outcome(tmp_path)
    first, second, third, _ = sorted(tmp_path.glob("shards/[0-9]*.parquet"))
    # A truncated shard, a missing one, and one with another byte; the fourth is intact.
    first.write_bytes(first.read_bytes()[:-20])
    second.unlink()
    content = third.read_bytes()
    third.write_bytes(content[:99] + bytes([content[99] ^ 1]) + content[100:])

    assert run_again().already == 1 and outcome(tmp_path) == expected


def test_shard_with_failures_is_run_again_on_request(image_folder, tmp_path):
    few = input_images.find_images([image_folder])[5:9]
    options = {"shard_size": 2, "progress": False}
    build_pipeline().run(few, tmp_path, **options)

    assert build_pipeline().run(few, tmp_path, **options).already == 2
    again = build_pipeline().run(few, tmp_path, retry_failed=True, **options)
    assert again.already == 1, "the black image is in the other shard"


def test_low_memory_releases_each_model_and_changes_nothing(image_folder, uninterrupted_run, tmp_path):
    released = []

    class Heavy(Colours):
        def release(self):
            released.append(self.name)

    few = input_images.find_images([image_folder])[:4]
    for name, engine in (("a", LocalEngine()), ("b", LocalEngine(low_memory=True))):
        pipeline.Pipeline([Heavy()]).run(few, tmp_path / name, engine=engine, shard_size=2, progress=False)

    assert released == ["colours"] * 2 and outcome(tmp_path / "a") == outcome(tmp_path / "b")


def test_paths_are_absolute_for_workers_in_other_folders(image_folder, tmp_path, monkeypatch):
    """Workers have another working image_folder than the process that they work for."""
    paths = []

    class Elsewhere(LocalEngine):
        def run(self, shards, stages, place, advance):
            (tmp_path / "elsewhere").mkdir()
            monkeypatch.chdir(tmp_path / "elsewhere")
            shards = list(shards)
            paths.append([place, *(image.image for shard in shards for image in shard.images)])
            yield from super().run(shards, stages, place, advance)

    monkeypatch.chdir(image_folder)
    inputs = input_images.find_images([Path("001.png"), Path("100.png")])
    build_pipeline().run(inputs, Path("..") / "out", engine=Elsewhere(), progress=False)

    assert all(path.is_absolute() for path in paths[0])

    ok_record, failed_record = read_records(image_folder.parent / "out" / pipeline.RECORDS)
    assert ok_record.status == "ok" and str(image_folder) not in failed_record.failures[0].error
    assert not list((tmp_path / "elsewhere").iterdir())
