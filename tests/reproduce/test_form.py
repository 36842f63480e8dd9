"""Notebooks have the form of the series: a picture soon, the lines that compute, something to try."""

import ast
import re

import pytest

from monkeylib import resources
from monkeylib.reproduce import notebooks, series

NAMES = [notebook.name for notebook in series.SERIES if notebook.name.startswith(("01", "04", "A"))]
CALLS_OF_EXPLORE = re.compile(r"\bexplore\.\w+\(")
each_notebook = pytest.mark.parametrize("name", NAMES)


def document(name):
    return notebooks.read(resources.notebooks() / f"{name}.ipynb")


def text_of(name, cell_type):
    return "\n".join(cell.source for cell in document(name).cells if cell.cell_type == cell_type)


@pytest.mark.parametrize("name", [notebook.name for notebook in series.SERIES])
def test_results_and_runs_are_those_of_the_seed(name):
    code = text_of(name, "code")
    assert len(re.findall(r"^resources\.use_seed\(seed\)$", code, flags=re.MULTILINE)) == 1
    assert code.index("use_seed(seed)") < code.index("figures.save("), "before the first file is written"

    runs = re.findall(r"resources\.runs\(([^)]*)\)", code)
    assert all(arguments == "profile, seed" for arguments in runs), runs
    if ".runs /" in code.replace("resources.runs", ""):
        assert ".with_seed(seed)" in code
    assert "data/runs" not in code and "data/lab" not in code


@each_notebook
def test_picture_comes_soon(name):
    sources = [cell.source for cell in document(name).cells if cell.cell_type == "code"]
    first = next(number for number, source in enumerate(sources) if "figures.save(" in source)
    # Installing, parameters, and one or two cells of imports.
    assert first <= 5, f"{name} has its first figure in code cell {first}"


@each_notebook
def test_formula_and_live_source(name):
    assert "$$" in text_of(name, "markdown"), "a formula"
    assert "library_lines(" in text_of(name, "code"), "the lines that compute it"


@each_notebook
def test_live_source_is_10_to_25_lines(name):
    shown = re.findall(r"^library_lines\((.+)\)$", text_of(name, "code"), flags=re.MULTILINE)
    imports = "\n".join(re.findall(r"^(?:from|import) .+$", text_of(name, "code"), flags=re.MULTILINE))
    scope = {}
    exec(imports, scope)
    for functions in shown:
        source = eval(f"library_lines({functions})", scope)
        assert 10 <= len(source.code.splitlines()) <= 25


@each_notebook
def test_something_to_try(name):
    assert CALLS_OF_EXPLORE.search(text_of(name, "code"))


@each_notebook
def test_last_section_states_from_results(name):
    cells = document(name).cells
    (heading,) = (
        number for number, cell in enumerate(cells) if cell.source.startswith("## What we found, and")
    )
    stated = next(cell for cell in cells[heading + 1 :] if "Markdown(f" in cell.source)
    assert notebooks.CHECKED in notebooks.tags(stated)

    # Three lines, each of which is filled from results.
    (filled,) = (node for node in ast.walk(ast.parse(stated.source)) if is_list(node))
    lines = lines_of(filled)
    assert len(lines) == 3, lines
    assert all("{}" in line for line in lines), lines
    assert any(line.startswith("Not known") for line in lines), lines


def is_list(node):
    """Return whether a node is an f-string that begins with the first line of a list."""
    first = node.values[0] if isinstance(node, ast.JoinedStr) else None
    return isinstance(first, ast.Constant) and str(first.value).lstrip().startswith("* ")


def lines_of(filled):
    """Return the lines of a list in an f-string, with braces where a value stands."""
    text = "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in filled.values)
    return [line for line in re.split(r"^\* ", text, flags=re.MULTILINE) if line.strip()]


@each_notebook
def test_two_exercises_with_solutions_that_tests_run(name):
    text = text_of(name, "markdown").split("## Exercises")[1]
    numbers = re.findall(r"^(\d)\. ", text, flags=re.MULTILINE)
    assert numbers == ["1", "2"]

    solutions = [cell for cell in document(name).cells if notebooks.SOLUTION in notebooks.tags(cell)]
    for number in numbers:
        of_exercise = [cell for cell in solutions if cell.source.startswith(f"# {number}. ")]
        assert of_exercise, f"exercise {number} has no solution"
        assert not any(notebooks.SKIPPED in notebooks.tags(cell) for cell in of_exercise), number


@each_notebook
def test_no_cell_prints_a_bare_verdict(name):
    for cell in document(name).cells:
        for output in cell.get("outputs", []):
            lines = output.get("text", "").splitlines()
            assert not [line for line in lines if re.search(r"(^|: )(True|False)$", line)], cell.source
