import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from monkeylib import resources


def test_outputs_lie_in_the_repository_unless_the_environment_names_a_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("MONKEYLIB_OUTPUTS", raising=False)
    assert resources.runs("nano") == resources.REPOSITORY / "data" / "runs" / "nano"
    assert resources.figures("nano") == resources.REPOSITORY / "figures"

    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))

    assert resources.results("nano") == tmp_path / "data" / "results" / "nano"
    assert resources.figures("smoke") == tmp_path / "data" / "runs" / "smoke" / "figures"
    assert resources.models() == resources.REPOSITORY / "data" / "models", "shipped files stay where they are"


@pytest.fixture()
def explored(monkeypatch, tmp_path):
    """A checkout whose notebooks a user runs, in whose kernel the test is."""
    shell = SimpleNamespace(kernel=None)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(resources, "REPOSITORY", tmp_path)
    monkeypatch.delenv("MONKEYLIB_OUTPUTS", raising=False)
    monkeypatch.delenv(resources.STARTED_BY, raising=False)
    return tmp_path


def test_who_explores_changes_no_committed_result(explored, monkeypatch):
    assert resources.results("nano") == explored / "data" / "lab" / "data" / "results" / "nano"
    assert resources.figures("nano") == explored / "data" / "lab" / "figures"
    assert resources.runs("nano") == explored / "data" / "runs" / "nano"

    for name in ("MONKEYLIB_OUTPUTS", resources.STARTED_BY):
        with monkeypatch.context() as patch:
            patch.setenv(name, str(explored))
            assert resources.results("nano") == explored / "data" / "results" / "nano"
            assert resources.figures("nano") == explored / "figures"


def test_who_explores_reads_own_results_or_newer_committed_ones(explored):
    own, committed = resources.results("nano") / "a.csv", explored / "data" / "results" / "nano" / "a.csv"
    assert resources.published(own) == own

    committed.parent.mkdir(parents=True)
    committed.touch()
    assert resources.published(own) == committed

    own.parent.mkdir(parents=True)
    own.touch()
    os.utime(own, (10, 10))
    assert resources.published(own) == committed
    os.utime(committed, (5, 5))
    assert resources.published(own) == own


@pytest.fixture()
def another_seed(monkeypatch):
    """Have results and figures be those of seed 7, until the test ends."""
    monkeypatch.setenv(resources.SEED, "0")
    resources.use_seed(7)


def test_each_seed_has_folders_of_its_own(monkeypatch, tmp_path, another_seed):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    assert resources.seed() == 7
    assert resources.runs("nano", 0) == resources.runs("nano") == tmp_path / "data/runs/nano"
    assert resources.runs("nano", 7) == tmp_path / "data/runs/nano-seed-7"
    assert resources.grid_runs("nano") == tmp_path / "data/runs/nano/grid", "cells name their seeds"

    assert resources.results("smoke") == tmp_path / "data/results/smoke-seed-7"
    assert resources.figures("smoke") == tmp_path / "data/runs/smoke-seed-7/figures"
    # The published figures are those of seed 0.
    assert resources.figures("nano") == tmp_path / "data/runs/nano-seed-7/figures"

    monkeypatch.setenv(resources.REPRODUCES, "nano-seed-7")
    own = tmp_path / "data/reproduced/nano-seed-7"
    assert resources.results("nano") == own / "data/results/nano"
    assert resources.figures("nano") == own / "figures"

    resources.use_seed(0)
    monkeypatch.delenv(resources.REPRODUCES)
    assert resources.results("smoke") == tmp_path / "data/results/smoke"
    assert resources.figures("nano") == tmp_path / "figures"

    monkeypatch.setenv(resources.SEED, "seven")
    with pytest.raises(ValueError, match="MONKEYLIB_SEED has to be a seed, such as 7, got 'seven'"):
        resources.seed()


def test_who_explores_another_seed_leaves_the_results_of_seed_0_alone(explored, another_seed):
    own, committed = resources.results("nano") / "a.csv", explored / "data/results/nano/a.csv"
    assert own == explored / "data/lab/seed-7/data/results/nano/a.csv"
    assert resources.figures("nano") == explored / "data/lab/seed-7/figures"
    assert resources.figures("smoke") == explored / "data/runs/smoke-seed-7/figures"

    # What seed 0 has made while exploring is not read, and newer published results don't replace one's own.
    for path in (committed, explored / "data/lab/data/results/nano/a.csv"):
        path.parent.mkdir(parents=True)
        path.touch()
    assert resources.published(own) == committed
    own.parent.mkdir(parents=True)
    own.touch()
    os.utime(own, (10, 10))
    assert resources.published(own) == own


def test_displayed_paths_can_be_used_where_they_are_printed(monkeypatch, tmp_path):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "outputs"))
    (tmp_path / "outputs" / "figures").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "outputs", tmp_path / "outputs" / "figures", resources.REPOSITORY):
        monkeypatch.chdir(folder)
        for path in (tmp_path / "outputs" / "figures", resources.REPOSITORY / "Makefile"):
            assert Path(resources.display_path(path)).samefile(path)

    monkeypatch.chdir(tmp_path)
    assert resources.display_path("outputs/figures/tiles.png") == "outputs/figures/tiles.png"
    assert resources.display_path("/elsewhere/x") == str(Path("/elsewhere/x").resolve())

    # The output of a notebook is committed.
    shell = SimpleNamespace(kernel=None)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert resources.display_path(tmp_path / "outputs" / "figures" / "tiles.png") == "figures/tiles.png"


def test_recorded_paths_are_relative_to_outputs_or_repository(monkeypatch, tmp_path):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))

    assert resources.recorded_path(tmp_path / "figures" / "tiles.png") == "figures/tiles.png"
    assert resources.recorded_path(resources.REPOSITORY / "Makefile") == "Makefile"
    assert resources.recorded_path("/elsewhere/x") == str(Path("/elsewhere/x").resolve())


@pytest.mark.parametrize("durable", [False, True])
def test_failed_write_leaves_the_old_file(tmp_path, durable):
    path = tmp_path / "new" / "table.csv"
    with resources.atomic_write(path, durable=durable) as temporary:
        temporary.write_text("complete")

    with pytest.raises(RuntimeError, match="half-way"), resources.atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("half-way")

    assert path.read_text() == "complete"
    assert [file.name for file in path.parent.iterdir()] == ["table.csv"]


def test_folder_is_created_only_if_the_block_succeeds(tmp_path):
    folder = tmp_path / "new"
    with pytest.raises(RuntimeError), resources.create_folder(folder) as temporary:
        (temporary / "a").write_text("1")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []

    with resources.create_folder(folder) as temporary:
        (temporary / "a").write_text("1")

    assert [path.name for path in folder.iterdir()] == ["a"]


def test_existing_folder_is_not_overwritten(tmp_path):
    (tmp_path / "a").write_text("1")
    with pytest.raises(FileExistsError, match="name a new folder"), resources.create_folder(tmp_path):
        pass


def test_folder_of_a_killed_process_is_removed_by_the_next_one(tmp_path):
    """Only where a lock tells that it is one."""
    digits = "0123456789ab"
    left, without_lock = f".new.{digits}", f".new.{digits[::-1]}"
    for name in (left, without_lock, f".other.{digits}", ".new.old", f".new.x.{digits}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("1")
    for name in (f"{left}.lock", f".other.{digits}.lock", f".new.x.{digits}.lock", ".new.old.lock"):
        (tmp_path / name).touch()
    before = {path.name for path in tmp_path.iterdir()}

    with resources.create_folder(tmp_path / "new"):
        pass
    after = {path.name for path in tmp_path.iterdir()}
    assert before - after == {left, f"{left}.lock"}
    assert after - before == {"new"}


def test_folder_in_use_is_not_removed(tmp_path):
    with resources.create_folder(tmp_path / "new") as first:
        (first / "a").write_text("1")
        with pytest.raises(RuntimeError), resources.create_folder(tmp_path / "new"):
            raise RuntimeError
        assert (first / "a").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_outputs_of_an_installed_package_lie_in_the_working_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(resources, "REPOSITORY", resources.SHIPPED)
    monkeypatch.delenv("MONKEYLIB_OUTPUTS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert resources.is_installed() and resources.runs("nano") == tmp_path / "data" / "runs" / "nano"

    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "chosen"))
    assert resources.outputs() == tmp_path / "chosen"


def test_published_results_are_read_where_one_has_none_of_ones_own(monkeypatch, tmp_path):
    shipped, own = tmp_path / "shipped", tmp_path / "work"
    for folder in (shipped, own):
        (folder / "data/results/nano").mkdir(parents=True)
    (shipped / "data/results/nano/scores.csv").write_text("published")
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(own))
    path = own / "data/results/nano/scores.csv"
    assert resources.published(path) == path, "in a checkout the results are its own"

    monkeypatch.setattr(resources, "SHIPPED", shipped)
    monkeypatch.setattr(resources, "REPOSITORY", shipped)
    assert resources.published(path).read_text() == "published"
    path.write_text("own")
    assert resources.published(path).read_text() == "own"

    monkeypatch.setenv(resources.SEED, "7")
    other = resources.results("nano") / "scores.csv"
    assert other == own / "data/results/nano-seed-7/scores.csv"
    assert resources.published(other).read_text() == "published", "and not the own one of seed 0"


@pytest.mark.parametrize(
    ("called", "on_path", "typed"),
    [
        (
            ".venv/bin/monkeylib",
            None,
            "run `.venv/bin/monkeylib assets fetch x`: a model that monkeylib brings",
        ),
        (
            ".venv/bin/monkeylib",
            "/bin/monkeylib",
            "run `monkeylib assets fetch x`: a model that monkeylib brings",
        ),
        ("pytest", None, "run `monkeylib assets fetch x`: a model that monkeylib brings"),
    ],
)
def test_commands_in_messages_can_be_typed(monkeypatch, called, on_path, typed):
    monkeypatch.setattr(sys, "argv", [called, "doctor"])
    monkeypatch.setattr(resources.shutil, "which", lambda name: on_path)
    assert resources.as_typed("run `monkeylib assets fetch x`: a model that monkeylib brings") == typed


def test_program_called_by_its_path_names_commands_by_it(tmp_path):
    program = Path(sys.executable).parent / "monkeylib"
    (tmp_path / "run" / "checkpoints" / "x.ckpt").mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text("{}")
    result = subprocess.run(
        [program, "answer", resources.samples() / "receipt.png", "what?", "--model", "run/model"],
        env={**os.environ, "PATH": os.defpath},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2 and f"`{program} convert run NEW_FOLDER`" in result.stderr


@pytest.mark.parametrize("write", [resources.atomic_write, resources.create_folder])
def test_place_that_cannot_be_written_is_named_with_what_to_do(write, tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a file where the folder should be")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "elsewhere"))
    with pytest.raises(OSError, match=r"^a can't be written to \(.*\): name another folder$"):
        with write(tmp_path / "a" / "b"):
            pass

    # Folders that nobody has named.
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    with pytest.raises(OSError, match=r"name another folder, by MONKEYLIB_OUTPUTS where no option does"):
        with write(tmp_path / "a" / "b"):
            pass


def test_errors_of_reading_are_none_of_writing(tmp_path):
    of_reading = [
        PermissionError(errno.EACCES, "no", "a.csv"),
        FileNotFoundError(errno.ENOENT, "no", "a.csv"),
    ]
    assert [resources.unwritable_sentence(error) for error in of_reading] == [None, None]

    temporary = resources.temporary_path(tmp_path / "a.csv", ".csv")
    sentence = resources.unwritable_sentence(PermissionError(errno.EACCES, "no", str(temporary)))
    assert sentence.startswith(f"{tmp_path / 'a.csv'} can't be written to (")
    assert "make room" in resources.unwritable_sentence(OSError(errno.ENOSPC, "full", "a.csv"))
    assert resources.unwritable_sentence(OSError("a sentence")) is None


@pytest.mark.parametrize(
    "words", ["Permission denied", "Failed to open local file '{}'. Detail: [errno 13] no"]
)
def test_temporary_file_that_cannot_be_written_is_named_as_what_it_becomes(words, tmp_path):
    with pytest.raises(
        OSError, match=r"can't be written to \(Permission denied\): name another folder"
    ) as error:
        with resources.atomic_write(tmp_path / "a.csv") as temporary:
            filename = None if "{}" in words else str(temporary)
            raise PermissionError(errno.EACCES, words.format(temporary), filename)
    assert error.value.errno == errno.EACCES and str(error.value).startswith(f"{tmp_path / 'a.csv'} ")

    # Another file is not the one that is written.
    with pytest.raises(PermissionError, match="source.csv"), resources.atomic_write(tmp_path / "a.csv"):
        raise PermissionError(errno.EACCES, "Permission denied", "source.csv")


def test_shipped_image_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sample = resources.samples() / "receipt.png"
    assert resources.find_sample("receipt.png") == str(sample)
    assert resources.find_sample("receipt.png#1") == f"{sample}#1"
    for other in ("folder/receipt.png", "README.md", "no-such.png", "-", "", "https://host/receipt.png"):
        assert resources.find_sample(other) == other

    (tmp_path / "receipt.png").touch()
    assert resources.find_sample("receipt.png") == "receipt.png"
