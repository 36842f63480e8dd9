"""What code writes at the top of every notebook of the series: a header, and a cell that installs monkeylib.

The header has badges that open the notebook elsewhere, the section of the paper, how long the notebook runs
under each profile, and its neighbours. The cell does nothing where monkeylib can be imported; where a
notebook lies alone, it installs the version of the repository's tag. `python -m monkeylib.reproduce.headers`
writes both anew into the notebooks of a checkout, and leaves every other cell and all outputs as they are.
"""

import os
import tomllib
from collections.abc import Sequence

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from monkeylib import resources, tables
from monkeylib.reproduce import notebooks
from monkeylib.reproduce.notebooks import BOOTSTRAP, HEADER
from monkeylib.reproduce.series import SERIES, Notebook

# Minutes that notebooks took, by profile: see `write_minutes`.
MINUTES = resources.REPOSITORY / "data" / "results" / "minutes.csv"

# What notebooks import in a kernel that runs already, whose own packages had better stay as they are.
_EXTRAS = "synthetic,train,captions,explore"
_PACKAGES = "pandas seaborn matplotlib-inline"

_BADGES = (
    (
        "Open in Colab",
        "https://colab.research.google.com/assets/colab-badge.svg",
        "https://colab.research.google.com/github/{path}",
    ),
    (
        "Open in Kaggle",
        "https://kaggle.com/static/images/open-in-kaggle.svg",
        "https://kaggle.com/kernels/welcome?src=https://github.com/{path}",
    ),
    (
        "Open in nbviewer",
        "https://raw.githubusercontent.com/jupyter/design/main/logos/Badges/nbviewer_badge.svg",
        "https://nbviewer.org/github/{path}",
    ),
)


def write_headers(series: Sequence[Notebook] = SERIES) -> None:
    """Write header and installing cell into the notebooks of the repository, whose other cells stay."""
    for notebook in series:
        path = resources.notebooks() / f"{notebook.name}.ipynb"
        document = notebooks.read(path)
        headed = with_header(document, notebook, series)
        if headed != document:
            notebooks.write(headed, path)


def with_header(
    document: NotebookNode, notebook: Notebook, series: Sequence[Notebook] = SERIES
) -> NotebookNode:
    """Return a notebook's document with header and installing cell after its title, in place of earlier ones.

    Execution counts are counted anew, since the installing cell is the first one that runs.
    """
    title, *others = (cell for cell in document.cells if cell.id not in (HEADER, BOOTSTRAP))
    header = new_markdown_cell(header_text(notebook, series), id=HEADER)
    bootstrap = new_code_cell(bootstrap_code(), id=BOOTSTRAP)

    headed = NotebookNode({**document, "cells": [title, header, bootstrap, *others]})
    is_executed = any(cell.execution_count for _, cell in notebooks.code_cells(document))
    for count, (_, cell) in enumerate(notebooks.code_cells(headed), start=1):
        cell.execution_count = count if is_executed else None
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = cell.execution_count
    return headed


def header_text(notebook: Notebook, series: Sequence[Notebook] = SERIES) -> str:
    """Return the header of a notebook in Markdown."""
    repository, version = published_at()
    path = f"{repository}/blob/v{version}/notebooks/{notebook.name}.ipynb"
    badges = [f"[![{name}]({image})]({link.format(path=path)})" for name, image, link in _BADGES]

    facts = [f"Paper: {notebook.paper}"] if notebook.paper else []
    if minutes := _minutes_text(notebook.name):
        facts.append(minutes)

    position = [other.name for other in series].index(notebook.name)
    if position:
        facts.append(f"Previous: {_link(series[position - 1])}")
    if position + 1 < len(series):
        facts.append(f"Next: {_link(series[position + 1])}")

    return f"{' '.join(badges)}\n\n{' · '.join(facts)}"


def bootstrap_code() -> str:
    """Return the code of the cell that installs monkeylib where it cannot be imported."""
    repository, version = published_at()
    return (
        "# Does nothing where monkeylib is installed; elsewhere it installs the version of this notebook.\n"
        "import importlib.util\n"
        "import os\n"
        "\n"
        'if importlib.util.find_spec("monkeylib") is None:\n'
        f'    tag = "git+https://github.com/{repository}@v{version}"\n'
        '    source = os.environ.get("MONKEYLIB_SOURCE", tag)  # or another clone, or a wheel\n'
        f'    package = f"monkeylib[{_EXTRAS}] @ {{source}}"\n'
        f'    %pip install --quiet "{{package}}" {_PACKAGES}'
    )


def write_minutes() -> None:
    """Write how long the notebooks took that were executed here, in place of earlier times of theirs."""
    rows = {}
    if MINUTES.exists():
        rows = {(row["notebook"], row["profile"]): row for row in tables.read_csv(MINUTES)}

    for path in sorted((resources.outputs() / "data" / "runs").glob("*/notebooks/*.ipynb")):
        run = notebooks.read(path).metadata.get("papermill", {})
        # Another seed takes as long, in a folder of its own.
        is_counted = not run.get("parameters", {}).get("seed", 0)
        if is_counted and run.get("duration") and not run.get("exception"):
            profile = path.parents[1].name
            rows[path.stem, profile] = {
                "notebook": path.stem,
                "profile": profile,
                "minutes": round(run["duration"] / 60, 1),
                "cores": os.cpu_count(),
            }

    if rows:
        tables.write_csv([rows[key] for key in sorted(rows)], MINUTES)


def published_at() -> tuple[str, str]:
    """Return the name of the repository where it is published (`owner/name`), and the version.

    Raises:
        FileNotFoundError: this is no checkout of the repository.
    """
    file = resources.REPOSITORY / "pyproject.toml"
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].removeprefix("https://github.com/"), project["version"]


def _link(notebook: Notebook) -> str:
    """Return a link to a notebook, with its title up to a colon."""
    document = notebooks.read(resources.notebooks() / f"{notebook.name}.ipynb")
    title = document.cells[0].source.splitlines()[0].removeprefix("# ").split(":")[0]
    return f"[{title}]({notebook.name}.ipynb)"


def _minutes_text(name: str) -> str:
    """Return how long a notebook runs under each profile; empty if that has not been measured."""
    if not MINUTES.exists():
        return ""
    rows = [row for row in tables.read_csv(MINUTES) if row["notebook"] == name]
    if not rows:
        return ""
    times = ", ".join(f"{_minutes(float(row['minutes'] or 0))} ({row['profile']})" for row in rows)
    return f"Minutes on {rows[0]['cores']} cores: {times}"


def _minutes(minutes: float) -> str:
    return f"{minutes:.0f}" if minutes >= 1 else "under 1"


if __name__ == "__main__":
    write_headers()
