"""The series of notebooks from end to end, under the profile `smoke`."""

import os
import subprocess
import sys

import pytest

from monkeylib import resources
from monkeylib.reproduce import series


@pytest.fixture(scope="module")
def smoke_runs(tmp_path_factory):
    """Run the series twice from the command line; return (first run, second run, outputs folder)."""
    outputs = tmp_path_factory.mktemp("smoke")
    command = [sys.executable, "-m", "monkeylib", "reproduce", "--profile", "smoke"]
    environment = {**os.environ, "MONKEYLIB_OUTPUTS": str(outputs)}

    first, second = (
        subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        for _ in range(2)
    )
    return first, second, outputs


def test_smoke_series_runs(smoke_runs):
    first, _, outputs = smoke_runs
    assert first.returncode == 0, first.stdout + first.stderr

    executed = sorted(path.stem for path in (outputs / "data/runs/smoke/notebooks").glob("*.ipynb"))
    assert executed == [notebook.name for notebook in series.SERIES]

    # Printed paths must work where the command was called, which is not where the outputs are.
    figures = outputs / "data/runs/smoke/figures"
    assert f"All tables: {outputs / 'data/results/smoke'}/" in first.stdout
    assert f"Figures: {figures}/" in first.stdout
    assert list(figures.glob("*.png"))


def test_second_smoke_run_has_nothing_to_do(smoke_runs):
    _, second, _ = smoke_runs
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("unchanged since its last run") == len(series.SERIES)


def test_last_notebook_runs_alone_in_a_fresh_clone(tmp_path):
    """As in JupyterLab: it trains and predicts what notebooks 05 and 06 would have."""
    (notebook,) = resources.notebooks().glob("08_*.ipynb")
    command = [sys.executable, "-m", "papermill", notebook, tmp_path / "08.ipynb", "-p", "profile", "smoke"]
    environment = {**os.environ, "MONKEYLIB_OUTPUTS": str(tmp_path)}

    run = subprocess.run(
        command, env=environment, cwd=resources.notebooks(), capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stderr[-2000:]
    assert list((tmp_path / "data/runs/smoke/figures").glob("resolutions.png"))
