"""A run's folder: what is refused, and that nothing foreign is changed or removed."""

import json
import shutil
from pathlib import Path

import pytest

from monkeylib import runs
from monkeylib.runs import RunFolder
from tests.support.run_folders import changed, contents, open_run, read_manifest, write_run


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
    with open_run(tmp_path / "run", lock=False) as run:
        run.start()
        assert run.own("metrics.csv") == tmp_path / "run" / "metrics.csv"
        run.note(a=1)
        run.remove_all(["metrics.csv"])
        run.finish()
    assert not (tmp_path / "run").exists()

    # They come while the first process holds the folder.
    with open_run(tmp_path / "run") as run:
        assert open_run(tmp_path / "run", lock=False).state == "new"
        run.start()
        assert open_run(tmp_path / "run", lock=False).state == "resumed"


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
    assert open_run(tmp_path / "real", lock=False).state == "finished"

    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_run("~/real", lock=False).state == "finished"
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

    monkeypatch.setattr(Path, "mkdir", fail)
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
    open_run(tmp_path / "run", inputs=[tmp_path / "run" / "notes", tmp_path], lock=False)


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


def test_foreign_file_is_not_overwritten(tmp_path):
    with open_run(tmp_path / "run") as run:
        run.start()
        (tmp_path / "run" / "metrics.csv").write_text("mine")
        (tmp_path / "run" / "tensorboard").write_text("mine")

        for name in ("metrics.csv", "*.csv", "tensorboard/events.1"):
            with pytest.raises(FileExistsError, match="in the way and was not written by the run: move it"):
                run.own(name)
    assert read_manifest(tmp_path / "run")["files"] == []


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


@pytest.mark.parametrize("fresh", [False, True])
def test_temporary_folder_of_a_killed_run_goes_and_a_foreign_one_of_such_a_name_stays(tmp_path, fresh):
    with open_run(tmp_path) as run:
        run.start()
        killed = run.create_folder("model")
        temporary = killed.__enter__()
        (temporary / "sub").mkdir()
        (temporary / "sub" / "weights").write_text("half")
        manifest = (tmp_path / "run.json").read_bytes()

        shutil.copytree(temporary, tmp_path / "copy")
        killed.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)

    # As a kill leaves it.
    (tmp_path / "copy").rename(temporary)
    (tmp_path / "run.json").write_bytes(manifest)
    foreign = tmp_path / ".model.0123456789ab"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")

    with open_run(tmp_path, fresh=fresh) as run:
        run.start()
        assert not temporary.exists()
        with run.create_folder("model") as folder:
            (folder / "config.json").write_text("1")
        assert [name for name in run.manifest.files if name.endswith("/")] == ["model/"]
    assert contents(foreign) == {"notes.txt": "mine"}


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


def test_run_that_was_killed_before_its_manifest_is_begun_again(tmp_path):
    leftovers = (".run.0123456789ab.json", "..monkeylib.lock.0123456789ab.json")
    for name in (runs.LOCK, runs.HOLDER, *leftovers, ".DS_Store"):
        (tmp_path / name).write_text("")
    with open_run(tmp_path) as run:
        assert run.state == "new"
        run.start()
    assert contents(tmp_path).keys() == {"run.json", ".DS_Store"}


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


def test_fresh_leaves_foreign_files_at_every_depth(tmp_path):
    """Also beside files whose names a library chooses, and below folders that the run has created."""
    digest, folder = "0" * 64, tmp_path / "run"
    own = [
        "a.txt",
        f"cache/model/version/00/{digest}.json",
        "logs/run-1/files/config.yaml",
        "checkpoints/step-1.ckpt/__0_0.distcp",
        "checkpoints/step-1.ckpt/.metadata",
    ]
    patterns = ["a.txt", "cache/*/*/*/<hex>.json", "logs/run-*/files/config.yaml"]
    patterns += ["checkpoints/step-1.ckpt/__*.distcp", "checkpoints/step-1.ckpt/.metadata"]

    with open_run(folder) as run:
        run.start()
        for name, pattern in zip(own, patterns, strict=True):
            run.own(pattern)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("1")

    folders = [path for path in folder.rglob("*") if path.is_dir()]
    foreign = []
    for directory in [folder, *folders]:
        for name in ("notes.txt", "notes.json", ".hidden", "0123.json"):
            (directory / name).write_text("mine")
            foreign.append((directory / name).relative_to(folder).as_posix())

    with open_run(folder, fresh=True) as run:
        run.start()
    assert contents(folder) == dict.fromkeys(foreign, "mine") | {"run.json": contents(folder)["run.json"]}


def test_folder_that_an_earlier_version_owned_as_a_whole_stays(tmp_path):
    write_run(tmp_path, ["metrics.csv"])
    manifest = read_manifest(tmp_path)
    manifest["files"].append("cache/**")
    (tmp_path / "run.json").write_text(json.dumps(manifest))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "notes.txt").write_text("mine")

    with open_run(tmp_path, fresh=True) as run:
        run.start()
    assert contents(tmp_path).keys() == {"run.json", "cache/notes.txt"}
