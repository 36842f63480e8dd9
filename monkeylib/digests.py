"""Digests that tie results to what they were made from: files, values in memory, the code reached."""

import ast
import hashlib
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PACKAGE = Path(__file__).resolve().parent
_DECIMALS = 6


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_digest(data: Any) -> str:
    """SHA-256 of what a figure was drawn from.

    Paths count with the bytes of their files; tables (anything with `to_csv`), arrays, tensors, images and
    nested lists and dictionaries with their values. Floats are rounded to six decimals first, so that the
    last bits of another processor don't count.

    Raises:
        ValueError: a value of another type.
    """
    digest = hashlib.sha256()
    for piece in _pieces(data):
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return digest.hexdigest()


def _pieces(data: Any) -> Iterable[bytes]:
    if isinstance(data, Path):
        yield file_digest(data).encode()
    elif hasattr(data, "detach"):  # a tensor
        yield from _pieces(data.detach().cpu().numpy())
    elif isinstance(data, np.ndarray | np.generic | Image.Image):
        array = np.asarray(data)
        if np.issubdtype(array.dtype, np.floating):
            array = np.round(array.astype(np.float64), _DECIMALS) + 0.0  # + 0.0 turns -0.0 into 0.0
        yield f"{array.dtype.str}{array.shape}".encode()
        yield np.ascontiguousarray(array).tobytes()
    elif isinstance(data, float):
        yield repr(round(data, _DECIMALS) + 0.0).encode()
    elif data is None or isinstance(data, str | bytes | int):
        yield repr(data).encode()
    elif isinstance(data, Mapping):
        yield b"mapping"
        for key in sorted(data, key=str):
            yield from _pieces(key)
            yield from _pieces(data[key])
    elif isinstance(data, list | tuple):
        yield f"sequence of {len(data)}".encode()
        for item in data:
            yield from _pieces(item)
    elif hasattr(data, "to_csv"):
        yield data.to_csv(float_format=f"%.{_DECIMALS}f").encode()
    else:
        raise ValueError(
            "The data of a figure must be paths, tables, arrays, images or plain values: "
            f"got {type(data).__name__}."
        )


def code_digests(source: str, package: Path = PACKAGE) -> dict[str, str]:
    """Digest of each file of the package that `source` reaches by its imports, however indirectly.

    Imports inside functions count too. Comments, docstrings and layout don't: they change no result. Files
    that aren't Python (a profile's YAML) count with the package that they lie in.

    Returns:
        {path relative to the package's parent: SHA-256}, sorted by path.
    """
    reached: dict[str, str] = {}
    waiting = _imported(ast.parse(source), "", package)
    while waiting:
        path = waiting.pop()
        name = path.relative_to(package.parent).as_posix()
        if name in reached:
            continue
        if path.suffix != ".py":
            reached[name] = file_digest(path)
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        reached[name] = hashlib.sha256(ast.dump(_without_docstrings(tree)).encode()).hexdigest()
        waiting |= _imported(tree, _package_of(path, package), package)
    return dict(sorted(reached.items()))


def _package_of(path: Path, package: Path) -> str:
    return ".".join(path.parent.relative_to(package.parent).parts)


def _imported(tree: ast.AST, inside: str, package: Path) -> set[Path]:
    """Files of the package that the import statements of a module of the package `inside` name."""
    found: set[Path] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found |= _files(alias.name, package)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), inside)
            for alias in node.names:
                found |= _files(f"{module}.{alias.name}", package)
    return found


def _files(dotted: str, package: Path) -> set[Path]:
    """What importing `dotted` runs: the module, and each `__init__.py` and data file of its packages."""
    parts = dotted.split(".")
    if parts[0] != package.name:
        return set()
    found: set[Path] = set()
    for depth in range(1, len(parts) + 1):
        path = package.parent.joinpath(*parts[:depth])
        if path.is_dir():
            found |= {file for file in path.iterdir() if file.is_file() and _counts(file)}
        elif path.with_suffix(".py").is_file():
            found.add(path.with_suffix(".py"))
    return found


def _counts(file: Path) -> bool:
    return file.name == "__init__.py" or file.suffix not in {".py", ".pyc"}


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
    return tree
