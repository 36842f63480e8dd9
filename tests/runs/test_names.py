"""Names of a run's files, also those that a library chooses."""

import pytest

from monkeylib import runs
from tests.support.run_folders import contents, open_run


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
    ]
    # A folder belongs to a run by the manifest alone.
    foreign = [
        f".notes.{digits}.txt",
        ".metrics.csv.swp",
        ".metrics.old.csv",
        f"checkpoints/.mine.{digits}",
        f".model.{digits}/weights",
    ]
    for name in [*leftovers, *foreign]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")

    with open_run(tmp_path) as run:
        run.start()
    assert contents(tmp_path).keys() == {"run.json", *foreign}
