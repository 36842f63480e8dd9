"""Calls of the command line, with a tiny checkpoint and an image."""

import sys

import pytest

from monkeylib import progress
from monkeylib.cli import app


@pytest.fixture()
def call(monkeypatch, tmp_path, capsys):
    """Return a function that runs a command and returns exit code, standard output and standard error."""
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "out"))
    # On a busy machine also short work takes long enough for a line.
    monkeypatch.setattr(progress._Lines, "is_due", lambda *_, **__: False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["monkeylib", *map(str, arguments)])
        capsys.readouterr()  # what came before isn't of this call
        with pytest.raises(SystemExit) as end:
            app.main()
        return end.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture()
def checkpoint(monkey, tmp_path):
    folder = tmp_path / "data" / "models" / "nano-base"
    monkey.model.save_pretrained(folder)
    monkey.processor.save_pretrained(folder)
    return folder


@pytest.fixture()
def image(make_image, tmp_path):
    make_image().save(tmp_path / "image.png")
    return tmp_path / "image.png"
