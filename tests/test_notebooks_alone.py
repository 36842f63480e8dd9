"""Each notebook alone in an empty folder: its first cell installs a wheel from the registries, then it runs.

Minutes long and with a network, so that `make test-alone` runs it, and not `make test`.
"""

import os
import subprocess
import sys
import venv

import pytest

from monkeylib import resources
from monkeylib.reproduce.series import SERIES
from tests.test_wheel import wheel  # noqa: F401  (a fixture)

# What a Jupyter server brings; all else is installed by the notebook.
SERVER = ("ipykernel", "papermill")

pytestmark = pytest.mark.skipif("MONKEYLIB_ALONE" not in os.environ, reason="`make test-alone` runs it")


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An environment without monkeylib, in which a kernel can be started."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip(python, "install", *SERVER)
    return python


def pip(python, *arguments):
    # The versions of the lock, as far as something needs them.
    environment = os.environ | {"PIP_CONSTRAINT": str(resources.REPOSITORY / "requirements.lock")}
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, env=environment, check=True)


@pytest.mark.parametrize("name", [notebook.name for notebook in SERIES])
def test_notebook_runs_alone(python, wheel, tmp_path, name):  # noqa: F811
    # The notebook before has installed it.
    pip(python, "uninstall", "--yes", "monkeylib")

    # Only this notebook: none of what the others leave, nothing of the repository.
    notebook = tmp_path / f"{name}.ipynb"
    notebook.write_bytes((resources.notebooks() / notebook.name).read_bytes())
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MONKEYLIB_")}
    environment |= {
        "PATH": os.pathsep.join([str(python.parent), environment["PATH"]]),
        "PYTHONPATH": "",
        "JUPYTER_PREFER_ENV_PATH": "1",
        "MONKEYLIB_SOURCE": wheel.as_uri(),
        "PIP_CONSTRAINT": str(resources.REPOSITORY / "requirements.lock"),
    }
    command = [python, "-m", "papermill", notebook, tmp_path / "executed.ipynb", "-p", "profile", "smoke"]
    command += ["--no-progress-bar", "--kernel", "python3"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr[-4000:]
    assert sys.prefix not in (tmp_path / "executed.ipynb").read_text(encoding="utf-8")
