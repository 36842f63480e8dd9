"""The lines of the library that compute something, as a notebook shows them: read from the code itself."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monkeylib import resources


class LibrarySource:
    """Source code of functions, without their docstrings, and a link to each of its files.

    As the last value of a notebook's cell, it is shown as code.

    Attributes:
        code: the lines of all functions, in their order.
        files: the files that they stand in, as links from a notebook reach them.
    """

    def __init__(self, *functions: Callable[..., Any]) -> None:
        if not functions:
            raise ValueError("a source is that of at least one function, got none")
        self.code = "\n\n".join(map(source_without_docstring, functions))
        self.files = list(dict.fromkeys(map(_linked_file, functions)))

    def __repr__(self) -> str:
        return self.code

    def _repr_markdown_(self) -> str:
        links = ", ".join(f"[{file.removeprefix('../')}]({file})" for file in self.files)
        return f"```python\n{self.code}\n```\n\nFrom {links}"


def source_without_docstring(function: Callable[..., Any]) -> str:
    """Return the source of a function or a method, dedented and without its docstring.

    Raises:
        TypeError: it is no function of Python.
    """
    source = textwrap.dedent(inspect.getsource(function))
    lines = source.rstrip().splitlines()

    (definition,) = ast.parse(source).body
    if not isinstance(definition, ast.FunctionDef):
        raise TypeError(f"the source of a function is shown, got {function!r}")

    if ast.get_docstring(definition) is not None:
        docstring = definition.body[0]
        before, after = lines[: docstring.lineno - 1], lines[docstring.end_lineno :]
        # Nor the blank line between docstring and code.
        while after and not after[0].strip():
            after = after[1:]
        lines = [*before, *after]
    return "\n".join(lines)


def _linked_file(function: Callable[..., Any]) -> str:
    """Return the file of a function as a link from a notebook's folder."""
    package = Path(resources.__file__).resolve().parent
    file = Path(inspect.getfile(function)).resolve()
    return f"../{file.relative_to(package.parent).as_posix()}"
