"""The package itself: what tab completion finds, and the version."""

import os
import subprocess
import sys
from importlib import metadata

import pytest

import monkeylib


def test_public_names_are_listed_before_they_are_imported():
    assert {*monkeylib.__all__, "__version__"} <= set(dir(monkeylib))
    assert all(callable(getattr(monkeylib, name)) for name in monkeylib.__all__)


def test_version_is_that_of_the_installed_package():
    assert monkeylib.__version__ == metadata.version("monkeylib")
    with pytest.raises(AttributeError, match="no attribute 'gone'"):
        _ = monkeylib.gone


def test_package_is_found_beside_a_folder_of_its_name(tmp_path):
    """Such as the folder of the clone, in which a user's own script lies."""
    (tmp_path / "monkeylib").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", "import monkeylib; print(monkeylib.load_model.__name__)"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.stdout == "load_model\n", run.stderr
