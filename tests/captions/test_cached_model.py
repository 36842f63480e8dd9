"""The crash ledger, time limits, and models that crash or hang on an image."""

import multiprocessing
import os
import signal
import time

import pytest

from monkeylib.captions import input_images, pipeline
from monkeylib.captions.cached_model import CrashLedger
from monkeylib.captions.experts.segments import CaptionedSegments
from monkeylib.captions.failures import StageFailed
from monkeylib.captions.record_files import read_records
from tests.support.caption_models import ChecksumMatcher, Colours, Halves, Shades
from tests.support.fatal_experts import Fatal, Flaky, Forgetful, Slow, images

KEYS = ["a" * 64, "b" * 64, "c" * 64]


@pytest.fixture
def folder(tmp_path):
    """Five images; the third is black."""
    return images(tmp_path / "images")


def run_pipeline(folder, out, expert, time_limit=None, batch_size=4):
    captioner = pipeline.Pipeline([expert], batch_size=batch_size, time_limit=time_limit)
    return captioner.run(input_images.find_images([folder]), out, progress=False)


def run_in_process(*arguments) -> int | None:
    """Run the pipeline in another process and return its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["monkeylib.captions.pipeline", "pyarrow.parquet"])
    child = context.Process(target=run_pipeline, args=arguments)
    child.start()
    child.join()
    return child.exitcode


def failures(out):
    """Return the first failure of each image that has one."""
    return {r.name: r.failures[0].error for r in read_records(out / pipeline.RECORDS) if r.failures}


# --- the crash ledger -----------------------------------------------------------------------------


def _crash(folder, keys):
    with CrashLedger(folder).running(keys):
        os.kill(os.getpid(), signal.SIGKILL)


def crash(folder, keys):
    """Kill a process while it runs these inputs."""
    child = multiprocessing.get_context("forkserver").Process(target=_crash, args=(folder, keys))
    child.start()
    child.join()

    assert child.exitcode == -signal.SIGKILL


def test_crash_counts_for_a_single_input_and_makes_suspects_of_a_batch(tmp_path):
    crash(tmp_path, KEYS)
    crash(tmp_path, KEYS[:1])
    crash(tmp_path, KEYS[:1])

    # Counting collects the notes once, so counting twice changes nothing.
    for _ in range(2):
        assert CrashLedger(tmp_path).count_crashes() == {KEYS[0]: 2, KEYS[1]: 0, KEYS[2]: 0}
    assert not list((tmp_path / "working").iterdir())

    CrashLedger(tmp_path).clear(KEYS[0])
    assert set(CrashLedger(tmp_path).count_crashes()) == set(KEYS[1:])


def test_inputs_of_a_living_process_are_no_suspects(tmp_path):
    with CrashLedger(tmp_path).running(KEYS):
        assert not CrashLedger(tmp_path).count_crashes()
        with pytest.raises(RuntimeError), CrashLedger(tmp_path).running(KEYS[:1]):
            raise RuntimeError("a model failed")
    assert not CrashLedger(tmp_path).count_crashes() and not list((tmp_path / "working").iterdir())


def test_damaged_note_is_removed(tmp_path):
    (tmp_path / "working").mkdir()
    (tmp_path / "working" / "torn.json").write_text('["a')
    assert not CrashLedger(tmp_path).count_crashes() and not list((tmp_path / "working").iterdir())


# --- images that crash the process ----------------------------------------------------------------


def test_image_that_crashes_the_process_is_quarantined(folder, tmp_path):
    out = tmp_path / "out"
    exit_codes = [run_in_process(folder, out, Fatal()) for _ in range(5)]

    # The batch crashes first, then the suspect alone until it is quarantined; the fifth run ends.
    assert exit_codes == [-signal.SIGKILL] * 4 + [0], "once in a batch, three times alone"

    version = next(out.glob("annotations/fatal/*")).name
    message = f"crashed the process 3 times; delete annotations/fatal/{version}/died to try again"
    assert failures(out) == {"2.png": message}

    records = list(read_records(out / pipeline.RECORDS))
    assert [len(record.regions) for record in records] == [1, 1, 0, 1, 1]

    expert = Fatal()
    assert run_pipeline(folder, out, expert).failed == 1 and expert.batches == [], "it is not run again"


def test_image_whose_crash_was_chance_gets_its_result(folder, tmp_path):
    out = tmp_path / "out"
    # It crashes once, and gives a result when it is run alone.
    assert run_in_process(folder, out, Flaky(tmp_path / "seen")) == -signal.SIGKILL
    assert run_pipeline(folder, out, Flaky(tmp_path / "seen")).failed == 0
    assert not list(out.glob("annotations/flaky/*/died/*")), "an image with a result is no suspect"


# --- time limits ----------------------------------------------------------------------------------


def test_image_that_hangs_becomes_a_failure(folder, tmp_path):
    others = multiprocessing.active_children()
    start = time.perf_counter()
    summary = run_pipeline(folder, tmp_path / "out", Slow(), time_limit=2.5)

    assert failures(tmp_path / "out") == {"2.png": "TimeLimitExceeded: no result within 2.5 seconds"}
    assert summary.failed == 1 and time.perf_counter() - start < 3600, "it would sleep for an hour"
    assert set(multiprocessing.active_children()) <= set(others)


def test_crash_in_a_subprocess_gives_the_same_records(folder, tmp_path):
    for _ in range(5):
        run_in_process(folder, tmp_path / "one", Fatal())
    assert run_pipeline(folder, tmp_path / "two", Fatal(), time_limit=60).failed == 1

    one, two = ((tmp_path / name / pipeline.RECORDS).read_bytes() for name in ("one", "two"))
    assert one == two


def test_time_limit_changes_no_record(folder, tmp_path):
    inputs = input_images.find_images([folder])
    for name, limit in (("a", None), ("b", 60)):
        experts = [Colours(), CaptionedSegments(Halves(), Shades())]
        captioner = pipeline.Pipeline(experts, ChecksumMatcher(), batch_size=2, time_limit=limit)
        captioner.run(inputs, tmp_path / name, progress=False)

    one, two = ((tmp_path / name / pipeline.RECORDS).read_bytes() for name in ("a", "b"))

    assert one == two and b"too dark" in one


def test_model_that_cannot_be_loaded_in_its_process_ends_the_run(folder, tmp_path):
    with pytest.raises(StageFailed, match="stage forgetful can't be loaded: FileNotFoundError: no weights"):
        run_pipeline(folder, tmp_path / "out", Forgetful(), time_limit=60)


def test_time_limit_of_zero_raises():
    with pytest.raises(ValueError, match="more than 0 seconds, got 0"):
        pipeline.Pipeline([Colours()], time_limit=0)
