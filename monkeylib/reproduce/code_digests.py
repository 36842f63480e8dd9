"""Digests of the library's code, by which a notebook is run again when code that it reaches changes."""

import ast
import importlib.util
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
    pending = _imported_files(ast.parse(source), "", package)

    while pending:
        path = pending.pop()
        name = path.relative_to(package.parent).as_posix()
        if name in digests:
            continue

        if path.suffix != ".py":
            digests[name] = file_digest(path)
            continue

        # The syntax tree has no comments and no layout.
        tree = ast.parse(path.read_text(encoding="utf-8"))
        digests[name] = text_digest(ast.dump(_without_docstrings(tree)))

        # Relative imports are resolved against the package of the module.
        module_package = ".".join(path.parent.relative_to(package.parent).parts)
        pending |= _imported_files(tree, module_package, package)

    return dict(sorted(digests.items()))


def _imported_files(tree: ast.AST, module_package: str, package: Path) -> set[Path]:
    """Return the files of `package` that the import statements of a module in `module_package` name."""
    files: set[Path] = set()

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                files |= _files_of(alias.name, package)

        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), module_package)
            for alias in node.names:
                # The name may be a module, or something that the module defines: `_files_of` takes both.
                files |= _files_of(f"{module}.{alias.name}", package)

    return files


def _files_of(dotted_name: str, package: Path) -> set[Path]:
    """Return what importing a name runs: its module, and `__init__.py` and data files of its packages."""
    parts = dotted_name.split(".")
    if parts[0] != package.name:
        return set()

    files: set[Path] = set()
    for depth in range(1, len(parts) + 1):
        path = package.parent.joinpath(*parts[:depth])
        if path.is_dir():
            files |= {file for file in path.iterdir() if file.is_file() and _belongs_to_package(file)}
        elif path.with_suffix(".py").is_file():
            files.add(path.with_suffix(".py"))

    return files


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
