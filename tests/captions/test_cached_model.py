"""An image that ends the process each time is given up, one that hangs is ended; the rest is described."""

import multiprocessing
import os
import signal
import time

import pytest

from monkeylib.captions import input_images, pipeline
from monkeylib.captions.cached_model import CrashLedger
from monkeylib.captions.experts.segments import CaptionedSegments
from monkeylib.captions.record_files import read_records
from tests.support.caption_models import ChecksumMatcher, Colours, Halves, Shades
from tests.support.fatal_experts import Fatal, Flaky, Forgetful, Slow, images

KEYS = ["a" * 64, "b" * 64, "c" * 64]


@pytest.fixture
def folder(tmp_path):
    """Five images; the third is black."""
    return images(tmp_path / "images")


def describe(folder, out, expert, time_limit=None, batch_size=4):
    work = pipeline.Pipeline([expert], batch_size=batch_size, time_limit=time_limit)
    return work.run(input_images.find_images([folder]), out, progress=False)


def in_a_process(*arguments) -> int | None:
    """Describe in another process; returns its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["monkeylib.captions.pipeline", "pyarrow.parquet"])
    child = context.Process(target=describe, args=arguments)
    child.start()
    child.join()
    return child.exitcode


def failures(out):
    return {r.name: r.failures[0].error for r in read_records(out / pipeline.RECORDS) if r.failures}


# --- notes -------------------------------------------------------------------------------------------


def _die_working(home, keys):
    with CrashLedger(home).running(keys):
        os.kill(os.getpid(), signal.SIGKILL)


def die_working(home, keys):
    child = multiprocessing.get_context("forkserver").Process(target=_die_working, args=(home, keys))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL


def test_a_death_counts_for_what_was_asked_alone_and_makes_suspects_of_a_batch(tmp_path):
    die_working(tmp_path, KEYS)
    die_working(tmp_path, KEYS[:1])
    die_working(tmp_path, KEYS[:1])
    for _ in range(2):  # looking twice counts nothing twice
        assert CrashLedger(tmp_path).count_crashes() == {KEYS[0]: 2, KEYS[1]: 0, KEYS[2]: 0}
    assert not list((tmp_path / "working").iterdir())
    CrashLedger(tmp_path).clear(KEYS[0])
    assert set(CrashLedger(tmp_path).count_crashes()) == set(KEYS[1:])


def test_what_a_living_process_works_on_is_no_suspect(tmp_path):
    with CrashLedger(tmp_path).running(KEYS):
        assert not CrashLedger(tmp_path).count_crashes()
        with pytest.raises(RuntimeError), CrashLedger(tmp_path).running(KEYS[:1]):
            raise RuntimeError("a model failed")
    assert not CrashLedger(tmp_path).count_crashes() and not list((tmp_path / "working").iterdir())


def test_a_note_that_is_no_note_is_taken_away(tmp_path):
    (tmp_path / "working").mkdir()
    (tmp_path / "working" / "torn.json").write_text('["a')
    assert not CrashLedger(tmp_path).count_crashes() and not list((tmp_path / "working").iterdir())


# --- an image that ends the process -----------------------------------------------------------------


def test_a_image_that_ends_the_process_is_given_up_and_the_rest_described(folder, tmp_path):
    out = tmp_path / "out"
    ends = [in_a_process(folder, out, Fatal()) for _ in range(5)]
    assert ends == [-signal.SIGKILL] * 4 + [0], "once in a batch, three times alone"
    home = next(out.glob("findings/fatal/*")).name
    said = f"crashed the process 3 times; delete findings/fatal/{home}/died to try again"
    assert failures(out) == {"2.png": said}
    records = list(read_records(out / pipeline.RECORDS))
    assert [len(record.regions) for record in records] == [1, 1, 0, 1, 1]
    expert = Fatal()
    assert describe(folder, out, expert).failed == 1 and expert.asked == [], "it isn't asked again"


def test_a_image_whose_death_was_chance_is_described(folder, tmp_path):
    out = tmp_path / "out"
    assert in_a_process(folder, out, Flaky(tmp_path / "seen")) == -signal.SIGKILL
    assert describe(folder, out, Flaky(tmp_path / "seen")).failed == 0
    assert not list(out.glob("findings/flaky/*/died/*")), "what has an answer is no suspect"


# --- a time limit ------------------------------------------------------------------------------------


def test_a_image_that_hangs_is_a_failure_and_the_rest_is_described(folder, tmp_path):
    start = time.perf_counter()
    summary = describe(folder, tmp_path / "out", Slow(), time_limit=2.5)
    assert failures(tmp_path / "out") == {"2.png": "TimeoutError: no result within 2.5 seconds"}
    assert summary.failed == 1 and time.perf_counter() - start < 3600, "it would sleep for an hour"
    assert not multiprocessing.active_children()


def test_with_a_time_limit_a_death_ends_the_model_only_and_the_records_are_the_same(folder, tmp_path):
    for _ in range(5):
        in_a_process(folder, tmp_path / "one", Fatal())
    assert describe(folder, tmp_path / "two", Fatal(), time_limit=60).failed == 1
    one, two = ((tmp_path / name / pipeline.RECORDS).read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_time_limit_changes_no_record(folder, tmp_path):
    chosen = input_images.find_images([folder])
    for place, limit in (("a", None), ("b", 60)):
        experts = [Colours(), CaptionedSegments(Halves(), Shades())]
        work = pipeline.Pipeline(experts, ChecksumMatcher(), batch_size=2, time_limit=limit)
        work.run(chosen, tmp_path / place, progress=False)
    one, two = ((tmp_path / place / pipeline.RECORDS).read_bytes() for place in ("a", "b"))
    assert one == two and b"too dark" in one


def test_a_model_that_cannot_be_loaded_in_its_process_is_recorded(folder, tmp_path):
    describe(folder, tmp_path / "out", Forgetful(), time_limit=60)
    assert set(failures(tmp_path / "out").values()) == {"FileNotFoundError: no weights"}


def test_a_time_limit_of_nothing_is_refused():
    with pytest.raises(ValueError, match="more than 0 seconds, got 0"):
        pipeline.Pipeline([Colours()], time_limit=0)
