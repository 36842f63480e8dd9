"""Notebooks as files: their parameters, their committed form, and the rules that tests hold."""

import ast
import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from monkeylib import resources
from monkeylib.images import open_image

PARAMETERS = "parameters"
CHECKED = "nbval-check-output"  # the cell states a result: tests run it and compare
SKIPPED = "nbval-skip"  # the cell computes for long: `make reproduce` runs it, tests don't
SOLUTION = "solution"  # the cell solves an exercise: it runs as all others, and its source is folded away
TAGS = {PARAMETERS, CHECKED, SKIPPED, SOLUTION, "nbval-ignore-output", "nbval-raises-exception"}
HEADER, BOOTSTRAP = "header", "bootstrap"  # ids of the cells that `headers` writes

MAX_CELL_LINES = 25
MAX_FUNCTION_LINES = 5
MAX_FILE_BYTES = 800_000
_PNG_COLOUR_TYPE, _PALETTE = 25, b"\x03"  # place of the colour type in a PNG file, and one of its values
MAX_PNG_CHARACTERS = 60_000  # in base 64
_WIDGET = "application/vnd.jupyter.widget-view+json"


# Reading and writing


def read(path: Path) -> NotebookNode:
    """Read a notebook, in format 4.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a notebook.
    """
    if not path.exists():
        raise FileNotFoundError(f"The notebook {resources.display_path(path)} doesn't exist.")

    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise ValueError(f"{resources.display_path(path)} is not a readable notebook: {error}.") from error


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook atomically."""
    with resources.atomic_write(path) as temporary:
        nbformat.write(notebook, temporary)


def tags(cell: NotebookNode) -> list[str]:
    """Return a cell's tags."""
    return cell.metadata.get("tags", [])


def code_cells(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode]]:
    """Yield position (from 0, text cells included) and cell, for each code cell."""
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            yield index, cell


def python(notebook: NotebookNode) -> str:
    """Return all code of a notebook as one Python module, with magics (`%pip ...`) turned into calls."""
    transformer = TransformerManager()
    return "\n".join(transformer.transform_cell(cell.source) for _, cell in code_cells(notebook))


# Parameters


def parameters(notebook: NotebookNode) -> dict[str, object]:
    """Return names and default values that the cell tagged `parameters` sets.

    Raises:
        ValueError: there is not exactly one such cell, or it holds anything but assignments of literals. (A
            value derived from a parameter would keep its default when the parameter is set from outside.)
    """
    cells = [cell for _, cell in code_cells(notebook) if PARAMETERS in tags(cell)]
    if len(cells) != 1:
        raise ValueError(f"A notebook needs one code cell tagged {PARAMETERS!r}: found {len(cells)}.")

    return dict(_literal_assignment(statement) for statement in ast.parse(cells[0].source).body)


def _literal_assignment(statement: ast.stmt) -> tuple[str, object]:
    """Return name and value of `name = literal`, or of `name: type = literal`."""
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    else:
        targets = [getattr(statement, "target", None)]

    value = getattr(statement, "value", None)

    if len(targets) == 1 and isinstance(targets[0], ast.Name) and value is not None:
        try:
            return targets[0].id, ast.literal_eval(value)
        except ValueError:
            pass  # not a literal: reported below, with everything else that isn't allowed here

    raise ValueError(f"The parameters cell may hold only `name = literal`: found `{ast.unparse(statement)}`.")


# Committed form


def normalise(notebook: NotebookNode) -> NotebookNode:
    """Return the committed form of an executed notebook, which another run changes as little as possible.

    Outputs and execution counts stay. Timings, injected parameters, standard error, live widgets and all
    other metadata go.
    """
    cells = [_normalise_cell(cell) for cell in notebook.cells if "injected-parameters" not in tags(cell)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}

    return nbformat.from_dict(
        {
            "cells": cells,
            "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    )


def _normalise_cell(cell: NotebookNode) -> dict[str, Any]:
    metadata: dict[str, Any] = {"tags": sorted(tags(cell))} if tags(cell) else {}
    if SOLUTION in tags(cell):
        metadata["jupyter"] = {"source_hidden": True}
    normalised = {
        "cell_type": cell.cell_type,
        "id": cell.id,
        "metadata": metadata,
        "source": cell.source,
    }

    if cell.cell_type == "code":
        outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        normalised["execution_count"] = cell.execution_count
        normalised["outputs"] = [_compress_image(_without_widget(output)) for output in outputs]

    return normalised


def _without_widget(output: NotebookNode) -> NotebookNode:
    """Return an output without the reference to a live widget, which ends with its kernel."""
    if _WIDGET not in output.get("data", {}):
        return output
    static = nbformat.from_dict(output)
    del static["data"][_WIDGET]
    return static


def _compress_image(output: NotebookNode) -> NotebookNode:
    """Return an output with a large PNG in less space.

    A drawing has few colours, and is smallest as a PNG with a palette of them; one with photographs is as a
    JPEG.
    """
    encoded = output.get("data", {}).get("image/png", "")
    content = base64.b64decode(encoded)
    if len(encoded) < MAX_PNG_CHARACTERS or _has_palette(content):
        return output

    # Neither has transparency here: the figure is put on white.
    image = open_image(content)
    drawing, photograph = io.BytesIO(), io.BytesIO()
    image.quantize(256).save(drawing, "PNG", optimize=True)
    image.save(photograph, "JPEG", quality=85)

    # A copy, since the executed notebook keeps its PNG.
    compressed = nbformat.from_dict(output)
    del compressed["data"]["image/png"]
    if drawing.tell() < photograph.tell():
        compressed["data"]["image/png"] = base64.b64encode(drawing.getvalue()).decode()
    else:
        compressed["data"]["image/jpeg"] = base64.b64encode(photograph.getvalue()).decode()
        compressed.get("metadata", {}).pop("image/png", None)
    return compressed


def _has_palette(png: bytes) -> bool:
    """Return whether an image is a PNG with a palette: one that `_compress_image` has made."""
    return png[_PNG_COLOUR_TYPE : _PNG_COLOUR_TYPE + 1] == _PALETTE


# Rules


def problems(path: Path) -> list[str]:
    """Return the rules that a committed notebook breaks, one sentence each."""
    notebook = read(path)

    sentences = [f"{path.name}: {problem}" for problem in _notebook_problems(notebook)]
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        sentences.append(f"{path.name}: larger than {MAX_FILE_BYTES // 1000} kB ({size // 1000} kB)")

    for index, cell in code_cells(notebook):
        sentences += [f"{path.name}, cell {index}: {problem}" for problem in _cell_problems(cell)]

    return sentences


def _notebook_problems(notebook: NotebookNode) -> Iterator[str]:
    try:
        parameters(notebook)
    except ValueError as error:
        yield str(error)

    # Normalising twice changes nothing, so a committed notebook equals its normal form.
    if normalise(notebook) != notebook:
        yield "not in committed form: write it with `monkeylib reproduce --publish`"

    if not notebook.cells or not notebook.cells[0].source.startswith("# "):
        yield "doesn't open with a title"

    counts = [cell.execution_count for _, cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"execution counts are {counts}, expected 1 to {len(counts)}: run the whole notebook in order"

    if not any(CHECKED in tags(cell) for _, cell in code_cells(notebook)):
        yield f"states no result: tag at least one cell {CHECKED!r}"


def _cell_problems(cell: NotebookNode) -> Iterator[str]:
    lines = len(cell.source.splitlines())
    cell_tags = set(tags(cell))

    if not cell.source.strip():
        yield "empty"
    if lines > MAX_CELL_LINES:
        yield f"{lines} lines, at most {MAX_CELL_LINES}: move code into the library"
    if any(output.output_type == "error" for output in cell.outputs):
        yield "holds an error"
    if any("PosixPath(" in str(output.get("data", {}).get("text/plain", "")) for output in cell.outputs):
        yield "shows a path of the machine that ran it: print `resources.display_path` of it"

    if cell_tags - TAGS:
        yield f"unknown tags {sorted(cell_tags - TAGS)}"
    if {CHECKED, SKIPPED} <= cell_tags:
        yield f"can't be both {CHECKED!r} and {SKIPPED!r}"
    if CHECKED in cell_tags and not cell.outputs:
        yield f"is tagged {CHECKED!r} and has no output"

    for node in ast.walk(ast.parse(TransformerManager().transform_cell(cell.source))):
        if isinstance(node, ast.ClassDef):
            yield f"defines the class {node.name}: it belongs in the library"
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES:
            yield f"the function {node.name} has over {MAX_FUNCTION_LINES} lines: it belongs in the library"
