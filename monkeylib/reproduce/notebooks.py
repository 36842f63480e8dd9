"""Notebooks as files: their parameters, their committed form, and the rules that each of them keeps."""

import ast
import base64
import io
from collections.abc import Iterator
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode
from PIL import Image

from monkeylib import resources

PARAMETERS = "parameters"
CHECKED = "nbval-check-output"  # the cell states a result: tests run it and compare
SKIPPED = "nbval-skip"  # the cell computes for long: `make reproduce` runs it, tests don't
TAGS = {PARAMETERS, CHECKED, SKIPPED, "nbval-ignore-output", "nbval-raises-exception"}
LONGEST_CELL = 25
LONGEST_FUNCTION = 5
LARGEST_FILE = 600_000
LARGEST_PNG = 60_000  # characters in base 64


def read(path: Path) -> NotebookNode:
    """The notebook at `path`, in format 4.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is no notebook.
    """
    if not path.exists():
        raise FileNotFoundError(f"The notebook {resources.display_path(path)} doesn't exist.")
    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise ValueError(f"{resources.display_path(path)} is no readable notebook: {error}.") from error


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook in one step."""
    with resources.atomic_write(path) as temporary:
        nbformat.write(notebook, temporary)


def tags(cell: NotebookNode) -> list[str]:
    """A cell's tags."""
    return cell.metadata.get("tags", [])


def code_cells(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode]]:
    """Position (from 0, text cells included) and cell, for each cell of code."""
    return ((index, cell) for index, cell in enumerate(notebook.cells) if cell.cell_type == "code")


def python(notebook: NotebookNode) -> str:
    """All code of a notebook as one Python module, magics (`%pip ...`) turned into calls."""
    transformer = TransformerManager()
    return "\n".join(transformer.transform_cell(cell.source) for _, cell in code_cells(notebook))


def parameters(notebook: NotebookNode) -> dict[str, object]:
    """Names and default values that the cell tagged `parameters` sets.

    Raises:
        ValueError: no such cell, several, or one with anything but assignments of literals in it (what is
            derived from a parameter there would keep its default when the parameter is set from outside).
    """
    cells = [cell for _, cell in code_cells(notebook) if PARAMETERS in tags(cell)]
    if len(cells) != 1:
        raise ValueError(f"A notebook needs one code cell tagged {PARAMETERS!r}: found {len(cells)}.")
    return dict(_literal(statement) for statement in ast.parse(cells[0].source).body)


def _literal(statement: ast.stmt) -> tuple[str, object]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    value = getattr(statement, "value", None)
    if len(targets) == 1 and isinstance(targets[0], ast.Name) and value is not None:
        try:
            return targets[0].id, ast.literal_eval(value)
        except ValueError:
            pass  # not a literal: reported below, with everything else that may not stand here
    raise ValueError(f"The parameters cell may hold only `name = literal`: found `{ast.unparse(statement)}`.")


def normalise(notebook: NotebookNode) -> NotebookNode:
    """The committed form of an executed notebook, in which running it again changes as little as possible.

    Outputs and execution counts stay; timings, injected parameters, what was written to standard error and
    all other metadata go.
    """
    cells = [_normalised(cell) for cell in notebook.cells if "injected-parameters" not in tags(cell)]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.from_dict(
        {
            "cells": cells,
            "metadata": {"kernelspec": spec, "language_info": {"name": "python"}},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    )


def _normalised(cell: NotebookNode) -> dict:
    kept = {
        "cell_type": cell.cell_type,
        "id": cell.id,
        "metadata": {"tags": sorted(tags(cell))} if tags(cell) else {},
        "source": cell.source,
    }
    if cell.cell_type == "code":
        kept["execution_count"] = cell.execution_count
        kept["outputs"] = [_lighter(output) for output in cell.outputs if output.get("name") != "stderr"]
    return kept


def _lighter(output: NotebookNode) -> NotebookNode:
    """The output, a large PNG in it as a JPEG: figures with photographs take a fifth of the space."""
    encoded = output.get("data", {}).get("image/png", "")
    if len(encoded) < LARGEST_PNG:
        return output
    lighter = nbformat.from_dict(output)
    file = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(lighter["data"].pop("image/png")))).convert("RGBA")
    paper = Image.new("RGBA", image.size, "white")
    Image.alpha_composite(paper, image).convert("RGB").save(file, "JPEG", quality=85)
    lighter["data"]["image/jpeg"] = base64.b64encode(file.getvalue()).decode()
    lighter.get("metadata", {}).pop("image/png", None)
    return lighter


def problems(path: Path) -> list[str]:
    """What a committed notebook has wrong, one sentence each; nothing where it keeps all the rules."""
    notebook = read(path)
    found = [f"{path.name}: {problem}" for problem in _of_the_whole(notebook)]
    if path.stat().st_size > LARGEST_FILE:
        found.append(f"{path.name}: larger than {LARGEST_FILE // 1000} kB ({path.stat().st_size // 1000} kB)")
    for index, cell in code_cells(notebook):
        found += [f"{path.name}, cell {index}: {problem}" for problem in _of_a_cell(cell)]
    return found


def _of_the_whole(notebook: NotebookNode) -> Iterator[str]:
    try:
        parameters(notebook)
    except ValueError as error:
        yield str(error)
    if normalise(notebook) != notebook:
        yield "not in committed form: write it with `monkeylib reproduce --update-notebooks`"
    if not notebook.cells or not notebook.cells[0].source.startswith("# "):
        yield "doesn't open with a title"
    counts = [cell.execution_count for _, cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"execution counts are {counts}, expected 1 to {len(counts)}: run the whole notebook in order"
    if not any(CHECKED in tags(cell) for _, cell in code_cells(notebook)):
        yield f"states no result: tag at least one cell {CHECKED!r}"


def _of_a_cell(cell: NotebookNode) -> Iterator[str]:
    if not cell.source.strip():
        yield "empty"
    if (lines := len(cell.source.splitlines())) > LONGEST_CELL:
        yield f"{lines} lines, at most {LONGEST_CELL}: move code into the library"
    if any(output.output_type == "error" for output in cell.outputs):
        yield "holds an error"
    if unknown := set(tags(cell)) - TAGS:
        yield f"unknown tags {sorted(unknown)}"
    if {CHECKED, SKIPPED} <= set(tags(cell)):
        yield f"can't be both {CHECKED!r} and {SKIPPED!r}"
    if CHECKED in tags(cell) and not cell.outputs:
        yield f"is tagged {CHECKED!r} and has no output"
    for node in ast.walk(ast.parse(TransformerManager().transform_cell(cell.source))):
        if isinstance(node, ast.ClassDef):
            yield f"defines the class {node.name}: it belongs in the library"
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= LONGEST_FUNCTION:
            yield f"the function {node.name} has over {LONGEST_FUNCTION} lines: it belongs in the library"
