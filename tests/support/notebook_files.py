"""Tiny notebooks for tests."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from monkeylib import resources
from monkeylib.reproduce import notebooks


def write_notebook(
    path: Path, *cells: str | tuple[str, str], parameters: str = 'profile = "nano"\nseed = 0'
) -> Path:
    """Write a notebook: a title, the parameters, then code cells, each a source or (source, tag)."""
    notebook_cells = [
        new_markdown_cell("# A title"),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
    ]
    for cell in cells:
        if isinstance(cell, str):
            notebook_cells.append(new_code_cell(cell))
        else:
            source, tag = cell
            notebook_cells.append(new_code_cell(source, metadata={"tags": [tag]}))

    for number, cell in enumerate(notebook_cells):
        cell.id = f"cell-{number}"

    notebook = notebooks.normalise(new_notebook(cells=notebook_cells))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def run_nbval(paths, outputs):
    """Run the cells of notebooks and compare the stated results; files are written to `outputs`.

    Nothing is downloaded: what a notebook states must not depend on the optional weights of a machine.
    """
    sanitize = resources.notebooks() / "sanitize.cfg"
    command = ["--nbval-lax", "--nbval-current-env", "--nbval-sanitize-with", sanitize]
    environment = {
        "MONKEYLIB_OUTPUTS": str(outputs),
        # As `monkeylib reproduce` has them: without the bars of other libraries.
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "1",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": os.devnull,
        "npm_config_offline": "true",
    }

    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *command, *paths],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
