"""Notebooks show the lines of the library that compute, as they are."""

import inspect

import pytest

from monkeylib import resources, tiling
from monkeylib.model.tile_lora import TileLoRA
from monkeylib.reproduce.sources import LibrarySource, source_without_docstring


def test_source_is_that_of_the_code_without_its_docstring():
    source = source_without_docstring(tiling.global_view)
    assert "Bicubic" in tiling.global_view.__doc__ and "Bicubic" not in source

    lines = source.splitlines()
    assert lines[0].startswith("def global_view(") and lines[1].strip().startswith("# Interpolation")
    of_library = inspect.getsource(tiling.global_view)
    assert all(line in of_library for line in lines)


def test_method_is_dedented_and_runs():
    source = source_without_docstring(TileLoRA.add)
    assert source.startswith("def add(")
    compile(source, "add", "exec")


def test_shown_with_a_link_that_leads_there():
    source = LibrarySource(tiling.global_view, tiling.tile_boxes)
    assert source.files == ["../monkeylib/tiling.py"]
    shown = source._repr_markdown_()
    assert shown.startswith("```python\ndef global_view(") and "\n\ndef tile_boxes(" in shown
    assert shown.endswith("From [monkeylib/tiling.py](../monkeylib/tiling.py)")
    assert (resources.notebooks() / source.files[0]).resolve().is_file()


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match="the source of a function is shown"):
        source_without_docstring(tiling.Grid)
    with pytest.raises(ValueError, match="at least one function"):
        LibrarySource()
