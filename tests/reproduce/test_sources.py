"""Notebooks show the lines that compute their formula: few, as they are, without docstrings."""

import re

import pytest

from monkeylib import resources
from monkeylib.reproduce import notebooks, sources

# Notebooks whose formula is computed by lines of the library.
WITH_FORMULA = ["00_start_here", "01_tiling", "02_lora_encoder", "03_resampler", "04_multilevel_captions"]
WITH_FORMULA += ["05_finetuning", "06_evaluation", "07_ablations", "08_visualization"]


def documented(x):
    """Return the double.

    Args:
        x: a number.
    """
    # Twice.
    return 2 * x


def test_code_without_docstring():
    shown = sources.library_lines(documented)
    assert shown.code == "def documented(x):\n    # Twice.\n    return 2 * x"
    assert shown._repr_markdown_() == f"```python\n{shown.code}\n```"
    assert sources.library_lines(documented, documented).code == f"{shown.code}\n\n{shown.code}"


def test_method_stands_at_the_left():
    assert sources.library_lines(sources.LibraryLines._repr_markdown_).code.startswith("def _repr_markdown_(")


def test_more_than_a_reader_takes_in_is_refused():
    with pytest.raises(ValueError, match=r"expected at most 20 lines .*, got \d+ of documented"):
        sources.library_lines(*[documented] * 10)


@pytest.mark.parametrize("name", WITH_FORMULA)
def test_notebook_has_a_formula_its_lines_and_their_file(name):
    cells = notebooks.read(resources.notebooks() / f"{name}.ipynb").cells
    (shown,) = [n for n, cell in enumerate(cells) if "library_lines(" in cell.source]
    before = cells[shown - 1].source
    assert "$$" in before, "the formula stands above its lines"

    (_, target), *_ = re.findall(r"\[(monkeylib/[\w/]+\.py)\]\(\.\./(monkeylib/[\w/]+\.py)\)", before)
    assert (resources.REPOSITORY / target).exists()
