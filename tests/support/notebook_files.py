"""Tiny notebooks for tests."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from monkeylib.reproduce import notebooks


def write_notebook(
    path: Path, *cells: str | tuple[str, str], parameters: str = 'profile = "nano"\nseed = 0'
) -> Path:
    """Write a notebook: a title, the parameters, then code cells, each a source or (source, tag)."""
    made = [new_markdown_cell("# A title"), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    for cell in cells:
        source, tags = (cell, []) if isinstance(cell, str) else (cell[0], [cell[1]])
        made.append(new_code_cell(source, metadata={"tags": tags} if tags else {}))
    for number, cell in enumerate(made):
        cell.id = f"cell-{number}"
    notebook = notebooks.normalise(new_notebook(cells=made))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path
