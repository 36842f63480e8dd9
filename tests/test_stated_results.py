"""The results that committed notebooks state hold: nbval runs their cells and compares."""

import shutil

import pytest

from monkeylib import resources
from tests.support.notebook_files import run_nbval

COMMITTED = sorted(resources.notebooks().glob("*.ipynb"))
TITLES = [path.stem for path in COMMITTED]


@pytest.fixture(scope="module")
def committed_results(tmp_path_factory):
    """Copy the committed results into a folder for outputs, so that the checkout stays unchanged."""
    folder = tmp_path_factory.mktemp("outputs")
    for name in ("data/results", "figures"):
        if (resources.REPOSITORY / name).exists():
            shutil.copytree(resources.REPOSITORY / name, folder / name)
    return folder


@pytest.mark.parametrize("path", COMMITTED, ids=TITLES)
def test_stated_results_hold(path, committed_results):
    run = run_nbval([path], committed_results)
    assert run.returncode == 0, run.stdout[-5000:]
