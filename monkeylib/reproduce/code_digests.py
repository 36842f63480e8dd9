"""Digests of the library's code, by which a notebook is run again when code that it reaches changes."""

import ast
import functools
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from monkeylib.digests import file_digest, text_digest

PACKAGE = Path(__file__).resolve().parents[1]


def code_digests(source: str, package: Path = PACKAGE) -> dict[str, str]:
    """Return the digest of each file of the package that `source` reaches by its imports, however indirectly.

    Imports inside functions count too. Comments, docstrings and layout don't: they change no result. Files
    that aren't Python (a profile's YAML, a matplotlib style) count with the package that they lie in.

    Args:
        source: Python code, such as the cells of a notebook.
        package: folder of the package.

    Returns:
        {path relative to the package's parent: SHA-256}, sorted by path.
    """
    digests: dict[str, str] = {}
    names = _with_parents(_imported_names(ast.parse(source)), "")
    pending = set(names)

    while pending:
        for path in _files_of(pending.pop(), package):
            name = path.relative_to(package.parent).as_posix()
            if name in digests:
                continue

            if path.suffix != ".py":
                digests[name] = file_digest(path)
                continue

            digests[name], imported = _digest_and_imports(path.read_text(encoding="utf-8"))

            # Relative imports are resolved against the package of the module.
            module_package = ".".join(path.parent.relative_to(package.parent).parts)
            new_names = _with_parents(imported, module_package) - names
            names |= new_names
            pending |= new_names

    return dict(sorted(digests.items()))


@functools.cache
def _digest_and_imports(code: str) -> tuple[str, frozenset[str]]:
    """Return the digest of a module's syntax tree, and the names that it imports.

    Remembered by the whole text, since parsing all modules takes seconds, and a figure needs them each time.
    """
    tree = ast.parse(code)
    names = _imported_names(tree)
    # The syntax tree has no comments and no layout.
    return text_digest(ast.dump(_without_docstrings(tree))), names


def _imported_names(tree: ast.AST) -> frozenset[str]:
    """Return the dotted names of all import statements; relative ones begin with their dots."""
    names: set[str] = set()

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            separator = "." if node.module else ""
            # The name may be a module, or something that the module defines: `_files_of` takes both.
            names |= {f"{module}{separator}{alias.name}" for alias in node.names}

    return frozenset(names)


def _with_parents(names: Iterable[str], module_package: str) -> set[str]:
    """Return the absolute names that a module in `module_package` imports, and those of their packages."""
    absolute: set[str] = set()
    for name in names:
        parts = importlib.util.resolve_name(name, module_package).split(".")
        absolute |= {".".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
    return absolute


def _files_of(dotted_name: str, package: Path) -> set[Path]:
    """Return what importing a name runs: a module, or `__init__.py` and the data files of a package."""
    parts = dotted_name.split(".")
    if parts[0] != package.name:
        return set()

    path = package.parent.joinpath(*parts)
    if path.is_dir():
        return {file for file in path.iterdir() if file.is_file() and _belongs_to_package(file)}
    module = path.with_suffix(".py")
    return {module} if module.is_file() else set()


def _belongs_to_package(file: Path) -> bool:
    """Tell whether importing a package depends on a file in its folder: its `__init__.py` and its data."""
    return file.name == "__init__.py" or file.suffix not in {".py", ".pyc"}


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """Remove the docstrings of a module, its classes and its functions, in place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]

    return tree
