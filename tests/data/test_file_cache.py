"""Files of the cache that are made of data files."""

import errno
import os
import tempfile
import threading
import time

import pytest

from monkeylib import resources
from monkeylib.data import file_cache
from monkeylib.data.file_cache import cached_file


@pytest.fixture()
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "out"))
    path = tmp_path / "rows.json"
    path.write_text("one")
    return path


def cached_files():
    return {path for path in (resources.cache() / "rows").iterdir() if path.suffix != ".lock"}


def test_file_is_made_once_for_each_state_of_its_source(source):
    made = []

    def write(path):
        made.append(source.read_text())
        path.write_text(source.read_text().upper())

    first = cached_file(source, "rows", ".index", write)
    assert first.read_text() == "ONE" and first.suffix == ".index"
    assert cached_file(source, "rows", ".index", write) == first and made == ["one"]

    # Of the same length, at another time.
    source.write_text("two")
    os.utime(source, ns=(0, 0))
    second = cached_file(source, "rows", ".index", write)
    assert second.read_text() == "TWO" and made == ["one", "two"]
    assert cached_files() == {first, second}


def test_source_that_is_replaced_by_one_of_its_size_and_time_has_another_file(source, tmp_path):
    os.utime(source, ns=(0, 0))
    first = cached_file(source, "rows", ".index", lambda path: path.write_text("ONE"))

    # As archives and `cp -p` set the time: in the file's place, and within it.
    (tmp_path / "other.json").write_text("two")
    os.utime(tmp_path / "other.json", ns=(0, 0))
    os.replace(tmp_path / "other.json", source)
    second = cached_file(source, "rows", ".index", lambda path: path.write_text("TWO"))
    assert second != first and second.read_text() == "TWO"

    time.sleep(0.05)  # the system's clock of files ticks every few milliseconds
    source.write_text("six")
    os.utime(source, ns=(0, 0))
    assert cached_file(source, "rows", ".index", lambda path: path.write_text("SIX")).read_text() == "SIX"


def test_others_wait_for_the_first_who_makes_it(source):
    made, waiting, threads = [], threading.Event(), []

    def write(path):
        made.append(path)
        # The other one has begun by now, and cannot get here.
        waiting.wait(timeout=30)
        path.write_text("x")

    def run():
        cached_file(source, "rows", ".index", write)

    for _ in range(2):
        threads.append(threading.Thread(target=run))
        threads[-1].start()
    waiting.set()
    for thread in threads:
        thread.join(timeout=60)
    assert len(made) == 1 and len(cached_files()) == 1


def test_nothing_half_written_stays(source):
    def fail(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cached_file(source, "rows", ".index", fail)
    assert cached_files() == set()
    assert cached_file(source, "rows", ".index", lambda path: path.write_text("whole")).read_text() == "whole"


def test_cache_that_cannot_be_written_is_made_among_temporary_files(source, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file_cache._temporary_cache.cache_clear()
    (tmp_path / "out" / "data").mkdir(parents=True)
    (tmp_path / "out" / "data" / "cache").write_text("a file where the folder should be")

    writes = []
    for _ in range(2):
        cached = cached_file(source, "rows", ".index", lambda path: writes.append(path.write_text("ONE")))
        assert cached.read_text() == "ONE" and cached.is_relative_to(tmp_path)
    assert len(writes) == 1

    # Said once, and what is there can be used again.
    errors = capfd.readouterr().err
    assert (
        errors.count("\n") == 1 and "cache can't be written to (" in errors and "MONKEYLIB_OUTPUTS" in errors
    )
    file_cache._temporary_cache.cache_clear()


def test_full_disk_is_named_with_what_to_do(source):
    def fail(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(
        OSError, match=r"rows can't be written to \(No space left on device\): make room, or name"
    ):
        cached_file(source, "rows", ".index", fail)
