"""One process writes into a folder, and another one is told which."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from filelock import SoftFileLock

from monkeylib import resources, runs
from monkeylib.runs.lock import FolderLock
from tests.support.run_folders import contents, open_run, write_run


def test_second_process_is_told_who_uses_the_folder(tmp_path):
    with open_run(tmp_path / "run") as run:
        sentences = []

        def second():
            try:
                open_run(tmp_path / "run")
            except BlockingIOError as error:
                sentences.append(str(error))

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        # From the same thread too.
        second()

        assert len(sentences) == 2
        assert f"run is in use by process {os.getpid()} on " in sentences[0]
        assert sentences[0].endswith("wait until it has ended, or name another folder")

        # The one who was refused has left everything as it was.
        run.start()
        with pytest.raises(BlockingIOError):
            open_run(tmp_path / "run")

    with open_run(tmp_path / "run") as run:
        assert run.state == "resumed"


@pytest.mark.parametrize("name", [".lock", ".lock.json"])
def test_locks_of_other_programs_are_foreign_files(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(FileExistsError, match=f"no run of monkeylib wrote, such as {name}"):
        open_run(tmp_path)
    assert contents(tmp_path) == {name: "{}"}

    # Nor does a run touch those that come later.
    write_run(tmp_path / "run")
    (tmp_path / "run" / name).write_text("{}")
    write_run(tmp_path / "run", fresh=True)
    assert (tmp_path / "run" / name).read_text() == "{}"


def test_lock_without_locks_of_the_file_system_is_named(tmp_path):
    with SoftFileLock(tmp_path / runs.LOCK):
        # The file stands for the lock, so only its being there keeps the second one out.
        lock = FolderLock(tmp_path)
        lock._lock = SoftFileLock(tmp_path / runs.LOCK, timeout=0.1)
        with pytest.raises(BlockingIOError, match=f"if that process is gone, remove {tmp_path / runs.LOCK}"):
            lock.acquire()


CHILD = """
import os, sys, time
from pathlib import Path
from monkeylib.runs import RunFolder
run = RunFolder.open(sys.argv[1], "training", {})
run.start()
run.own("metrics.csv").write_text("1")
if os.fork() == 0:  # as a data loader does
    time.sleep(60)
    os._exit(0)
Path(sys.argv[1], "ready").touch()
time.sleep(60)
"""


def test_lock_of_a_killed_process_is_free(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "run")], start_new_session=True, cwd=resources.REPOSITORY
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "run" / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(BlockingIOError, match=f"in use by process {child.pid} on "):
            open_run(tmp_path / "run", {})

        # Its data loader lives on.
        child.kill()
        child.wait()
        with open_run(tmp_path / "run", {}) as run:
            assert run.state == "resumed"
            run.start()
    finally:
        os.killpg(child.pid, signal.SIGKILL)
    assert contents(tmp_path / "run").keys() == {"metrics.csv", "ready", "run.json"}


def test_file_system_without_locks(tmp_path, monkeypatch):
    """There filelock takes a file as the lock."""
    fcntl = pytest.importorskip("fcntl")

    def missing(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    with pytest.warns(UserWarning), open_run(tmp_path / "run") as run:
        run.start()
        with pytest.raises(BlockingIOError, match="in use by process"):
            open_run(tmp_path / "run")
    assert contents(tmp_path).keys() == {"run/run.json"}


def test_folder_in_use_is_not_cleared(tmp_path):
    write_run(tmp_path / "run")
    with open_run(tmp_path / "run"), pytest.raises(BlockingIOError, match="in use"):
        runs.clear(tmp_path / "run")
    assert "metrics.csv" in contents(tmp_path / "run")
