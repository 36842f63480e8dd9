"""A run's folder: what is refused, what may go on, and that nothing foreign is changed or removed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from filelock import SoftFileLock

from monkeylib import resources, runs
from monkeylib.runs import RunFolder

FINGERPRINT = {"training": {"steps": 4, "lr": 0.1, "betas": (0.9, 0.95)}, "data": "d" * 64}


def open_run(folder, fingerprint=FINGERPRINT, kind="training", **options):
    return RunFolder.open(folder, kind, fingerprint, **options)


def changed(**training):
    return FINGERPRINT | {"training": FINGERPRINT["training"] | training}


def write_run(folder, names=("metrics.csv",), finish=True, **options):
    """Make a run that writes files of these names."""
    with open_run(folder, **options) as run:
        run.start()
        for name in names:
            run.own(name).write_text(f"content of {name}")
        if finish:
            run.finish()


def contents(folder):
    """Return the text of every file below a folder, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()
    }


def read_manifest(folder):
    return json.loads((folder / "run.json").read_text())


# --- states


def test_new_run_is_resumed_and_then_finished(tmp_path):
    with open_run(tmp_path / "a" / "run") as run:
        assert run.state == "new"
        run.start()
        run.own("curves/metrics.csv").write_text("1")
        run.note(overrides={"training.lr": 0.1})

    with open_run(tmp_path / "a" / "run") as run:
        assert (run.state, run.changes) == ("resumed", {})
        assert run.manifest.files == ["curves/metrics.csv"]
        assert run.manifest.notes == {"overrides": {"training.lr": 0.1}}
        run.start()
        run.own("curves/metrics.csv").write_text("2")
        run.finish()

    with open_run(tmp_path / "a" / "run") as run:
        assert run.state == "finished"
    assert sorted(contents(tmp_path)) == ["a/run/curves/metrics.csv", "a/run/run.json"]


def test_run_that_was_not_started_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="went down"), open_run(tmp_path / "a" / "run"):
        raise RuntimeError("it went down")
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "empty").mkdir()
    with open_run(tmp_path / "empty"):
        pass
    assert list((tmp_path / "empty").iterdir()) == [], "a folder that was there stays"


def test_nothing_is_written_before_the_start(tmp_path):
    with open_run(tmp_path / "run") as run:
        for write in (
            lambda: run.own("a"),
            run.finish,
            lambda: run.note(a=1),
            lambda: run.remove_all(["a"]),
            lambda: run.create_folder("model").__enter__(),
        ):
            with pytest.raises(RuntimeError, match="call start"):
                write()


def test_other_processes_of_a_run_write_no_manifest(tmp_path):
    with open_run(tmp_path / "run", main_process=False) as run:
        run.start()
        assert run.own("metrics.csv") == tmp_path / "run" / "metrics.csv"
        run.note(a=1)
        run.remove_all(["metrics.csv"])
        run.finish()
    assert not (tmp_path / "run").exists()

    # They come while the first process holds the folder.
    with open_run(tmp_path / "run") as run:
        assert open_run(tmp_path / "run", main_process=False).state == "new"
        run.start()
        assert open_run(tmp_path / "run", main_process=False).state == "resumed"


def test_manifest_records_the_code_and_says_when_it_differs(tmp_path, monkeypatch):
    write_run(tmp_path, finish=False)
    code = read_manifest(tmp_path)["code"]
    assert code == runs.code_version()
    assert {"monkeylib", "torch"} <= set(code)
    assert open_run(tmp_path, main_process=False).remarks == []

    monkeypatch.setattr(runs, "code_version", lambda: code | {"monkeylib": "99.0"})
    with open_run(tmp_path) as run:
        assert run.state == "resumed"
        assert run.remarks == [
            f"the code has changed since the run was started: monkeylib {code['monkeylib']} -> 99.0"
        ]


def test_commit_of_a_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(resources, "REPOSITORY", tmp_path)
    assert "commit" not in runs.code_version()

    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "a.txt").write_text("1")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    commit = runs.code_version()["commit"]
    assert len(commit) >= 7 and "dirty" not in commit

    (tmp_path / "a.txt").write_text("2")
    assert runs.code_version()["commit"] == f"{commit}-dirty"


# --- fingerprints


def test_other_fingerprint_is_refused_with_every_field(tmp_path):
    write_run(tmp_path / "run", ["model.bin"])
    before = contents(tmp_path)

    other = {"training": {"steps": 8, "lr": 0.5, "betas": [0.9, 0.95], "seed": 1}, "data": "e" * 64}
    with pytest.raises(ValueError) as error:
        open_run(tmp_path / "run", other, may_change=["training.steps"])

    assert str(error.value) == (
        f"{tmp_path / 'run'} holds a run of training with other settings (training.lr 0.1 -> 0.5, "
        "training.seed not set -> 1, data dddddddddddd -> eeeeeeeeeeee): replace it with --fresh, or name "
        "another folder"
    )
    assert contents(tmp_path) == before


def test_many_differences_are_counted(tmp_path):
    write_run(tmp_path, fingerprint={f"a{number}": 0 for number in range(20)})
    with pytest.raises(ValueError, match="a11 0 -> 1, and 8 more"):
        open_run(tmp_path, {f"a{number}": 1 for number in range(20)})


def test_fields_that_may_change_are_said_and_recorded(tmp_path):
    write_run(tmp_path)
    with open_run(tmp_path, changed(steps=9), may_change=["training.steps"]) as run:
        assert run.state == "finished", "the caller decides whether there is something left to do"
        assert run.changes == {"training.steps": (4, 9)}
        assert run.remarks == ["settings changed since the run was started: training.steps 4 -> 9"]
        run.start()
    assert read_manifest(tmp_path)["fingerprint"]["training"]["steps"] == 9
    assert not read_manifest(tmp_path)["finished"]

    # A group of fields.
    assert open_run(tmp_path, changed(lr=7), may_change=["training"], main_process=False).changes


def test_field_of_a_later_version_has_its_default_in_earlier_runs(tmp_path):
    write_run(tmp_path)
    defaults = {"training": {"packing": False}}

    assert open_run(tmp_path, changed(packing=False), defaults=defaults, main_process=False).changes == {}
    with pytest.raises(ValueError, match="training.packing false -> true"):
        open_run(tmp_path, changed(packing=True), defaults=defaults)


# --- foreign files


@pytest.mark.parametrize("name", ["notes.txt", ".git/config", "model/config.json", "metrics.csv"])
@pytest.mark.parametrize("fresh", [False, True])
def test_folder_with_foreign_files_is_refused(tmp_path, name, fresh):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"no run of monkeylib wrote, such as {name.split('/')[0]}"):
        open_run(tmp_path, fresh=fresh)
    assert contents(tmp_path) == {name: "mine"}


@pytest.mark.parametrize("fresh", [False, True])
def test_run_of_another_kind_is_refused(tmp_path, fresh):
    write_run(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match="holds a run of training, not of evaluation"):
        open_run(tmp_path, kind="evaluation", fresh=fresh)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"model": "nano"}',
        '{"kind": "training", "finished": true}',
        '{"kind": "training", "finished": true, "fingerprint": []}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "files": ["../a"]}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "files": ["/etc/passwd"]}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "obsolete": ["a/../../b"]}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "files": ["*/notes.txt"]}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "files": [3]}',
        b"\xff\xfe\x00",
        '{"kind": "training", "finished": "no", "fingerprint": {}}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "code": []}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "code": {"torch": {"a": 1}}}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "notes": 3}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "created": 3}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "files": ["*"]}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "files": ["a.txt", "*/**"]}',
        '{"kind": "training", "finished": true, "fingerprint": {}, "obsolete": ["a/*.*"]}',
        pytest.param("[" * 100_000, id="deep list"),
        pytest.param(
            '{"kind": "training", "finished": true, "fingerprint": ' + '{"a":' * 700 + "1" + "}" * 701,
            id="deep fingerprint",
        ),
    ],
)
def test_damaged_manifest_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match="run.json is damaged or not the record of a run: name another"):
        open_run(tmp_path, fresh=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_path_that_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, sentence in [
        ("file", "is a file: name a folder"),
        ("file/run", "is a file|can't be written to"),
        ("dangling", "is a link to a folder that doesn't exist"),
    ]:
        with pytest.raises(OSError, match=sentence):
            open_run(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_link_home_and_working_folder(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_run(tmp_path / "link")
    assert open_run(tmp_path / "real", main_process=False).state == "finished"

    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_run("~/real", main_process=False).state == "finished"
    monkeypatch.chdir(tmp_path / "real")
    with open_run(".", fresh=True) as run:
        run.start()
    assert list(contents(tmp_path / "real")) == ["run.json"]

    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileExistsError, match="such as link"):
        open_run(".")
    with pytest.raises(FileExistsError, match="such as link"):
        open_run("~")


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(runs.Path, "mkdir", fail)
    with pytest.raises(OSError, match=r"run can't be written to \(Read-only file system\): name another"):
        open_run(tmp_path / "run")


def test_input_must_not_be_a_file_of_the_run(tmp_path):
    with open_run(tmp_path / "run") as run:
        run.start()
        with run.create_folder("model") as temporary:
            (temporary / "weights").write_text("1")
        run.finish()
    before = contents(tmp_path)

    for path in (tmp_path / "run" / "model", tmp_path / "run" / "model" / "weights"):
        with pytest.raises(ValueError, match="is a file of the run in .*can't be its input: name another"):
            open_run(tmp_path / "run", inputs=[path], fresh=True)
    assert contents(tmp_path) == before

    # A foreign file beside them is not touched, and neither is what lies elsewhere.
    open_run(tmp_path / "run", inputs=[tmp_path / "run" / "notes", tmp_path], main_process=False)


# --- fresh


def test_fresh_removes_the_files_of_the_run_only(tmp_path):
    folder = tmp_path / "run"
    write_run(folder, ["metrics.csv", "tensorboard/events.1", "checkpoints/a.ckpt"])
    (folder / "notes.txt").write_text("mine")
    (folder / "tensorboard" / "notes.txt").write_text("mine")
    (folder / "metrics.csv.bak").write_text("mine")

    with open_run(folder, changed(lr=1), fresh=True) as run:
        assert run.state == "new"
        assert (folder / "metrics.csv").exists(), "only a run that starts replaces another"
        run.start()

    foreign = {"notes.txt", "tensorboard/notes.txt", "metrics.csv.bak"}
    assert contents(folder).keys() == foreign | {"run.json"}
    assert not (folder / "checkpoints").exists()
    assert read_manifest(folder)["files"] == read_manifest(folder)["obsolete"] == []


def test_fresh_that_does_not_start_changes_nothing(tmp_path):
    write_run(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(RuntimeError), open_run(tmp_path, changed(lr=1), fresh=True):
        raise RuntimeError("no base model")
    assert contents(tmp_path) == before


def test_killed_replacement_is_completed_by_the_next_run(tmp_path, monkeypatch):
    write_run(tmp_path, ["a.ckpt", "b.ckpt"])
    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "_remove_files", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt), open_run(tmp_path, changed(lr=1), fresh=True) as run:
            run.start()
    assert (tmp_path / "a.ckpt").exists()

    # The old checkpoints are not those of the new run.
    with open_run(tmp_path, changed(lr=1)) as run:
        assert run.state == "resumed"
        run.start()
        assert list(contents(tmp_path).keys() - {runs.LOCK, runs.HOLDER}) == ["run.json"]


def test_removal_does_not_follow_links(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "run"
    outside.mkdir()
    (outside / "a.ckpt").write_text("mine")
    write_run(folder, ["checkpoints/a.ckpt", "b.txt"])

    # The user has moved files to another disk.
    (folder / "checkpoints" / "a.ckpt").unlink()
    (folder / "checkpoints").rmdir()
    (folder / "checkpoints").symlink_to(outside)
    (folder / "b.txt").unlink()
    (folder / "b.txt").symlink_to(outside / "a.ckpt")

    with open_run(folder, fresh=True) as run:
        run.start()
        with pytest.raises(FileExistsError, match="run/checkpoints is in the way"):
            run.own("checkpoints/a.ckpt")
    assert contents(outside) == {"a.ckpt": "mine"}
    assert (folder / "checkpoints").is_symlink()


# --- the run's files


def test_foreign_file_is_not_overwritten(tmp_path):
    with open_run(tmp_path / "run") as run:
        run.start()
        (tmp_path / "run" / "metrics.csv").write_text("mine")
        (tmp_path / "run" / "tensorboard").write_text("mine")

        for name in ("metrics.csv", "*.csv", "tensorboard/events.1"):
            with pytest.raises(FileExistsError, match="in the way and was not written by the run: move it"):
                run.own(name)
    assert read_manifest(tmp_path / "run")["files"] == []


@pytest.mark.parametrize(
    "name", ["", "..", "../a", "/a", "a/../../b", "run.json", runs.LOCK, "*/a", "a\\b", "*", "*/**", "a/*.*"]
)
def test_names_lie_within_the_folder(tmp_path, name):
    with open_run(tmp_path / "run") as run:
        run.start()
        with pytest.raises(ValueError, match="a name within its folder"):
            run.own(name)


def test_pattern_owns_what_a_library_names(tmp_path):
    with open_run(tmp_path) as run:
        run.start()
        run.own("tensorboard/events.*")
        (tmp_path / "tensorboard" / "events.12.host").write_text("1")
        (tmp_path / "tensorboard" / "notes.txt").write_text("mine")
        run.remove_all(["tensorboard/events.12.host", "tensorboard/notes.txt"])
        assert not (tmp_path / "tensorboard" / "events.12.host").exists()
        (tmp_path / "tensorboard" / "events.13.host").write_text("1")

    with open_run(tmp_path, fresh=True) as run:
        run.start()
    assert contents(tmp_path).keys() == {"run.json", "tensorboard/notes.txt"}


def test_folder_of_files_appears_in_one_move(tmp_path):
    with open_run(tmp_path) as run:
        run.start()
        with pytest.raises(OSError, match="disk full"), run.create_folder("model") as temporary:
            (temporary / "config.json").write_text("half")
            raise OSError("disk full")
        assert not (tmp_path / "model").exists()

        for content in ("first", "second"):
            with run.create_folder("model") as temporary:
                (temporary / "config.json").write_text(content)
                (temporary / content).mkdir()
                (temporary / content / "weights").write_text(content)
                assert "model/config.json" not in contents(tmp_path) or content == "second"
        run.finish()

    assert contents(tmp_path / "model") == {"config.json": "second", "second/weights": "second"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_folder_is_shared_with_foreign_files(tmp_path):
    (tmp_path / "run").mkdir()
    with open_run(tmp_path / "run") as run:
        run.start()
        (tmp_path / "run" / "model").mkdir()
        (tmp_path / "run" / "model" / "notes.txt").write_text("mine")
        with run.create_folder("model") as temporary:
            (temporary / "config.json").write_text("1")

        (tmp_path / "run" / "model" / "README.md").write_text("mine")
        with pytest.raises(FileExistsError, match="README.md is in the way"):
            with run.create_folder("model") as temporary:
                (temporary / "README.md").write_text("1")

    assert contents(tmp_path / "run" / "model") == {
        "notes.txt": "mine",
        "README.md": "mine",
        "config.json": "1",
    }
    with open_run(tmp_path / "run", fresh=True) as run:
        run.start()
    assert contents(tmp_path / "run" / "model") == {"notes.txt": "mine", "README.md": "mine"}


def test_removed_files_leave_the_manifest(tmp_path):
    with open_run(tmp_path) as run:
        run.start()
        for name in ("checkpoints/a.ckpt", "checkpoints/b.ckpt", "metrics.csv"):
            run.own(name).write_text("1")
        (tmp_path / "checkpoints" / "mine").write_text("mine")

        run.remove_all(["checkpoints/a.ckpt", "missing"])
        assert run.manifest.files == ["checkpoints/b.ckpt", "metrics.csv"]
        run.remove_all(["checkpoints/b.ckpt", "checkpoints/mine"])
        assert run.manifest.files == ["metrics.csv"]
    assert contents(tmp_path).keys() == {"run.json", "metrics.csv", "checkpoints/mine"}


def test_leftovers_of_killed_runs_are_removed(tmp_path):
    with open_run(tmp_path) as run:
        run.start()
        run.own("metrics.csv")
        run.own("checkpoints/step-1.ckpt")
        with pytest.raises(RuntimeError), run.create_folder("model"):
            raise RuntimeError

    digits = "0123456789ab"
    leftovers = [
        f".metrics.{digits}.csv",
        f".run.{digits}.json",
        f"checkpoints/.step-1.{digits}.ckpt",
        f".model.{digits}/weights",
    ]
    foreign = [f".notes.{digits}.txt", ".metrics.csv.swp", ".metrics.old.csv", f"checkpoints/.mine.{digits}"]
    for name in [*leftovers, *foreign]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")

    with open_run(tmp_path) as run:
        run.start()
    assert contents(tmp_path).keys() == {"run.json", *foreign}


def test_run_that_was_killed_before_its_manifest_is_begun_again(tmp_path):
    leftovers = (".run.0123456789ab.json", "..monkeylib.lock.0123456789ab.json")
    for name in (runs.LOCK, runs.HOLDER, *leftovers, ".DS_Store"):
        (tmp_path / name).write_text("")
    with open_run(tmp_path) as run:
        assert run.state == "new"
        run.start()
    assert contents(tmp_path).keys() == {"run.json", ".DS_Store"}


def test_failed_manifest_leaves_the_old_one(tmp_path, monkeypatch):
    write_run(tmp_path)
    before = contents(tmp_path)

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resources, "sync", full)
    with pytest.raises(OSError, match="No space"), open_run(tmp_path, changed(lr=1), fresh=True) as run:
        run.start()
    assert contents(tmp_path) == before


# --- locking


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
        with open_run(tmp_path / "other") as run:
            run._lock = SoftFileLock(tmp_path / runs.LOCK, timeout=0.1)
            run.path = tmp_path
            with pytest.raises(
                BlockingIOError, match=f"if that process is gone, remove {tmp_path / runs.LOCK}"
            ):
                run._acquire()


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


# --- clearing


def test_cleared_folder_disappears_unless_it_holds_foreign_files(tmp_path):
    write_run(tmp_path / "run", ["metrics.csv", "model/config.json"])
    runs.clear(tmp_path / "run")
    assert not (tmp_path / "run").exists()

    write_run(tmp_path / "run", ["metrics.csv", "model/config.json"])
    (tmp_path / "run" / "model" / "notes.txt").write_text("mine")
    runs.clear(tmp_path / "run")
    assert contents(tmp_path / "run").keys() == {"run.json", "model/notes.txt"}

    # The same run can go there again.
    with open_run(tmp_path / "run") as run:
        assert run.state == "resumed" and run.manifest.files == []


def test_folder_in_use_is_not_cleared(tmp_path):
    write_run(tmp_path / "run")
    with open_run(tmp_path / "run"), pytest.raises(BlockingIOError, match="in use"):
        runs.clear(tmp_path / "run")
    assert "metrics.csv" in contents(tmp_path / "run")


def test_files_of_an_earlier_version_are_adopted(tmp_path):
    (tmp_path / "old.csv").write_text("1")
    with open_run(tmp_path, adopt=["old.csv"]) as run:
        run.start()
        assert run.own("old.csv").read_text() == "1"

    other = tmp_path / "other"
    other.mkdir()
    (other / "old.csv").write_text("1")
    (other / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="such as notes.txt"):
        open_run(other, adopt=["old.csv"])
