"""The lines of the library that compute a formula, shown in a notebook as they are now."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MOST_LINES = 20  # that a reader takes in at once


@dataclass(frozen=True)
class LibraryLines:
    """Lines of the library; as the last value of a notebook's cell, they are shown as code."""

    code: str

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.code}\n```"


def library_lines(*functions: Callable[..., Any]) -> LibraryLines:
    """Return the code of functions without their docstrings, as it stands in the library.

    Args:
        functions: functions or methods of the library, in the order in which they are read.

    Raises:
        ValueError: more than 20 lines of code, blank lines not counted.
    """
    code = "\n\n".join(_code(function) for function in functions)
    count = sum(bool(line.strip()) for line in code.splitlines())
    if count > MOST_LINES:
        names = ", ".join(function.__qualname__ for function in functions)
        raise ValueError(
            f"expected at most {MOST_LINES} lines that compute a formula, got {count} of {names}: split the "
            "function, and show the part that computes it"
        )
    return LibraryLines(code)


def _code(function: Callable[..., Any]) -> str:
    """Return the source of a function without its docstring, its comments in place."""
    lines = textwrap.dedent(inspect.getsource(inspect.unwrap(function))).splitlines()
    (definition,) = ast.parse("\n".join(lines)).body
    assert isinstance(definition, ast.FunctionDef)

    if ast.get_docstring(definition) is not None:
        docstring = definition.body[0]
        del lines[docstring.lineno - 1 : docstring.end_lineno]
        # Nor the blank line that stood below it.
        if not lines[docstring.lineno - 1].strip():
            del lines[docstring.lineno - 1]
    return "\n".join(lines)
