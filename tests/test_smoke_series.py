"""The smoke series from end to end."""

import os
import subprocess
import sys

import pytest

from monkeylib import resources
from monkeylib.reproduce import series


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The whole series in its smallest form, run twice from the command line: (first, second, outputs)."""
    outputs = tmp_path_factory.mktemp("smoke")
    command = [sys.executable, "-m", "monkeylib.cli", "reproduce", "--profile", "smoke"]
    environment = {**os.environ, "MONKEYLIB_OUTPUTS": str(outputs)}
    runs = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        for _ in range(2)
    ]
    return *runs, outputs


def test_the_smoke_series_runs(smoke):
    first, _, outputs = smoke
    assert first.returncode == 0, first.stdout + first.stderr
    ran = sorted(path.stem for path in (outputs / "data/runs/smoke/notebooks").glob("*.ipynb"))
    assert ran == [notebook.name for notebook in series.SERIES]
    assert "data/results/smoke/" in first.stdout and "Figures: data/runs/smoke/figures/" in first.stdout
    assert list((outputs / "data/runs/smoke/figures").glob("*.png"))


def test_a_second_smoke_run_has_nothing_to_do(smoke):
    _, second, _ = smoke
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("unchanged since its last run") == len(series.SERIES)


def test_the_last_notebook_runs_in_a_clone_where_no_other_has_run(tmp_path):
    """As in JupyterLab: it trains and asks what notebooks 05 and 06 have not."""
    environment = {**os.environ, "MONKEYLIB_OUTPUTS": str(tmp_path)}
    (notebook,) = resources.notebooks().glob("08_*.ipynb")
    command = [sys.executable, "-m", "papermill", notebook, tmp_path / "ran.ipynb", "-p", "profile", "smoke"]
    ran = subprocess.run(
        command, env=environment, cwd=resources.notebooks(), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert list((tmp_path / "data/runs/smoke/figures").glob("resolutions.png"))
