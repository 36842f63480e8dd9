"""Rules of the house that no single module shows."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from monkeylib import resources

PACKAGE = resources.REPOSITORY / "monkeylib"
MODULES = sorted(PACKAGE.rglob("*.py"))
NAMES = [path.relative_to(resources.REPOSITORY).as_posix() for path in MODULES]
LONGEST_MODULE = 300
LONGEST_FUNCTION = 40  # without its docstring

# layer -> what nothing in it may import
LAYERS = {
    "tiling.py": ["monkeylib"],
    "model": ["captions", "training", "evaluation", "experiments", "data"],
    "": ["cli"],
}


def imported(path: Path) -> set[str]:
    """Modules that a file names in its import statements, as `from a import b` -> a.b."""
    inside = ".".join(path.parent.relative_to(resources.REPOSITORY).parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join(inside.split(".")[: len(inside.split(".")) - node.level + 1]) if node.level else ""
            )
            module = ".".join(part for part in (base, node.module) if part)
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_import_only_what_lies_below_them(layer):
    place = PACKAGE / layer
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    assert files
    forbidden = [name if name == "monkeylib" else f"monkeylib.{name}" for name in LAYERS[layer]]
    crossed = [
        (path.name, name)
        for path in files
        for name in imported(path)
        for module in forbidden
        if within(name, module)
    ]
    assert crossed == []


def test_importing_the_library_is_light():
    heavy = [
        "torch",
        "transformers",
        "lightning",
        "ray",
        "gradio",
        "peft",
        "IPython",
        "jupyterlab",
        "matplotlib",
        "pandas",
    ]
    code = f"import sys, monkeylib, monkeylib.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def length(function: ast.FunctionDef) -> int:
    """Lines of a function without its docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is None:
        return lines
    return lines - (function.body[0].end_lineno - function.body[0].lineno + 1)


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_modules_and_functions_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_MODULE
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert {node.name: length(node) for node in functions if length(node) > LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_public_functions_say_their_types(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name[0] != "_"]
    assert [node.name for node in public if node.returns is None] == []


@pytest.mark.parametrize("call", [["check"], ["format", "--check"]], ids=" ".join)
def test_the_style_is_clean(call):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *call, "--no-cache", "."],
        cwd=resources.REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def committed_texts():
    """(path, text) of every committed text file."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=resources.REPOSITORY, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        path = resources.REPOSITORY / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            yield name, content.decode("utf-8")


FORBIDDEN = {
    "a path of one machine": r"(?<![\w.~/-])/(home|Users|root|work|scratch|mnt)/\w+",
    "a package index": r"py[p]i\.org|pythonhoste[d]|npm[j]s|--(extra-)?index[-]url|--find[-]links",
    "a secret": r"\bsk-[A-Za-z0-9]{20}|BEGIN [A-Z ]*PRIVATE[ ]KEY",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_committed_file_names(what):
    pattern = re.compile(FORBIDDEN[what])
    found = [(name, match[0]) for name, text in committed_texts() if (match := pattern.search(text))]
    assert found == []
