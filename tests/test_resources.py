from pathlib import Path

import pytest

from monkeylib import resources


def test_a_run_writes_into_the_repository_unless_told_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("MONKEYLIB_OUTPUTS", raising=False)
    assert resources.runs("nano") == resources.REPOSITORY / "data" / "runs" / "nano"
    assert resources.figures("nano") == resources.REPOSITORY / "figures"
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    assert resources.results("nano") == tmp_path / "data" / "results" / "nano"
    assert resources.figures("smoke") == tmp_path / "data" / "runs" / "smoke" / "figures"
    assert resources.models() == resources.REPOSITORY / "data" / "models", "what ships stays where it is"


def test_paths_are_shown_without_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    assert resources.display_path(tmp_path / "figures" / "tiles.png") == "figures/tiles.png"
    assert resources.display_path(resources.REPOSITORY / "Makefile") == "Makefile"
    assert resources.display_path("/elsewhere/x") == str(Path("/elsewhere/x").resolve())


def test_replacing_leaves_the_old_file_when_the_block_fails(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with resources.atomic_write(path) as temporary:
        temporary.write_text("whole")
    with pytest.raises(RuntimeError, match="half-way"), resources.atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("half-way")
    assert path.read_text() == "whole"
    assert [file.name for file in path.parent.iterdir()] == ["table.csv"]
