"""Repository-wide checks: layers of imports, the glossary, style, and what no file may contain."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from monkeylib import resources

ROOT = resources.REPOSITORY
PACKAGE = ROOT / "monkeylib"
MODULES = sorted(PACKAGE.rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").glob("*/**/*.py"))
NAMES = [path.relative_to(ROOT).as_posix() for path in MODULES]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

# From the bottom up: a module imports only what stands before it.
LAYERS = """
    tiling byte_views boxes errors fields redaction english signals resources settings_files runs
    image_errors image_damage image_addresses image_sources pdf_files jpeg_files rgb_conversion images
    digests progress tables html_pages
    assets label_mask prompts messages chat_template model image_processor chat_processor processing
    checkpoints sizing profiles raising session encodings monkey raised_session raised_monkey inference
    data training evaluation captions experiments plots reproduce integrations serving explore demo doctor
    cli __main__
""".split()


# Layers


def imported_names(path: Path) -> set[str]:
    """Return what a file imports, inside functions too; `from a import b` gives a.b."""
    package = path.parent.relative_to(ROOT).parts
    names = set()

    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}

        elif isinstance(node, ast.ImportFrom):
            # `from .. import x` in a/b/c.py imports a.x.
            parents = package[: len(package) - node.level + 1] if node.level else ()
            module = [*parents, node.module] if node.module else list(parents)
            names |= {".".join([*module, alias.name]) for alias in node.names}

    return names


def layer_of(path: Path) -> str:
    """Return the module or folder of monkeylib that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_module_and_folder_has_a_layer():
    layers = {layer_of(path) for path in MODULES} - {"__init__"}
    assert layers == set(LAYERS)
    assert len(LAYERS) == len(set(LAYERS))


def test_contributing_lists_the_layers():
    section = CONTRIBUTING.split("### Layers\n")[1]
    block = re.search(r"\n\n((?:    [^\n]*\n)+)", section)[1]
    assert block.split() == LAYERS


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_imports_only_lower_layers(layer):
    lower = set(LAYERS[: LAYERS.index(layer)])
    climbing = []

    for path in MODULES:
        if layer_of(path) != layer:
            continue
        for name in imported_names(path):
            package, _, rest = name.partition(".")
            target = rest.split(".")[0]
            if package == "monkeylib" and target in LAYERS and target not in {layer, *lower}:
                climbing.append((path.name, name))

    assert climbing == []


def test_library_does_not_import_what_is_built_on_it():
    outside = {"recipes", "benchmarks", "tests", "notebooks"}
    imports = [(path.name, name) for path in MODULES for name in imported_names(path)]
    assert [(file, name) for file, name in imports if name.split(".")[0] in outside] == []


def test_modules_do_not_import_each_other_in_a_circle():
    imports = {path: executed_modules(path) for path in MODULES}

    # Remove modules that import nothing of what remains, until nothing changes: circles are left over.
    remaining = set(MODULES)
    while leaves := {path for path in remaining if not imports[path] & remaining}:
        remaining -= leaves

    # What only builds on a circle isn't part of it.
    while roots := {path for path in remaining if not any(path in imports[other] for other in remaining)}:
        remaining -= roots

    assert sorted(path.relative_to(PACKAGE).as_posix() for path in remaining) == []


def test_images_are_opened_in_one_module_only():
    opening = {name for name in NAMES if "Image.open(" in (ROOT / name).read_text(encoding="utf-8")}
    assert opening == {"monkeylib/images.py"}


@pytest.mark.parametrize(("library", "room"), [("hashlib", "digests"), ("jinja2", "html_pages")])
def test_library_is_used_in_one_module_only(library, room):
    users = {layer_of(path) for path in MODULES if library in top_level(imported_names(path))}
    assert users == {room}


def top_level(names: set[str]) -> set[str]:
    """Return the first part of dotted names."""
    return {name.split(".")[0] for name in names}


def executed_modules(path: Path) -> set[Path]:
    """Return the files that are executed before a file can be: what it imports, and the packages around that.

    Packages that the file itself lies in are left out: they have begun already.
    """
    modules = modules_of(imported_names(path)) - {path}
    packages = {folder / "__init__.py" for module in modules for folder in module.parents}
    packages -= {folder / "__init__.py" for folder in path.parents}
    return modules | packages & set(MODULES)


def modules_of(names: set[str]) -> set[Path]:
    """Return the files of the imported modules: the deepest file that each name leads to."""
    files = set()
    for name in names:
        parts = name.split(".")
        if parts[0] != "monkeylib":
            continue
        for depth in range(len(parts), 0, -1):
            path = ROOT.joinpath(*parts[:depth])
            if path.with_suffix(".py").is_file():
                files.add(path.with_suffix(".py"))
                break
            if (path / "__init__.py").is_file():
                files.add(path / "__init__.py")
                break

    return files


def test_importing_the_library_is_light():
    heavy = [
        "torch",
        "transformers",
        "lightning",
        "ray",
        "peft",
        "IPython",
        "jupyterlab",
        "matplotlib",
        "seaborn",
        "pandas",
        "pydantic",
        "jinja2",
    ]
    code = f"import sys, monkeylib, monkeylib.cli; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "[]"


# Glossary


def glossary() -> tuple[set[str], set[str]]:
    """Return the banned words and the accepted names of the glossary in CONTRIBUTING.md."""
    table = re.search(r"\| not \| but \|\n\| --- \| --- \|\n((?:\|.*\|\n)+)", CONTRIBUTING)[1]

    banned, accepted = set(), set()
    for line in table.splitlines():
        _, old, new, _ = line.split("|")
        banned |= set(re.findall(r"`(\w+)`", old))
        accepted |= set(re.findall(r"`(\w+)`", new))

    return banned, accepted


def public_names(path: Path) -> Iterator[str]:
    """Yield the name of a module, and those of its public classes, functions, parameters and fields."""
    yield path.parent.name if path.stem == "__init__" else path.stem

    for name in defined_names(ast.parse(path.read_text(encoding="utf-8")).body):
        if not name.startswith("_"):
            yield name


def defined_names(body: list[ast.stmt]) -> Iterator[str]:
    """Yield what the statements of a module or of a class define; not what private definitions contain."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield node.name
            if not node.name.startswith("_"):
                yield from defined_names(node.body)

        elif isinstance(node, ast.FunctionDef):
            yield node.name
            # The parameters of a constructor are public, too.
            if node.name == "__init__" or not node.name.startswith("_"):
                arguments = node.args
                for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                    yield argument.arg

        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id

        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def words_of(name: str) -> list[str]:
    """Return the words of a name in snake or camel case, in lower case."""
    words = []
    for part in name.split("_"):
        words += re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", part)
    return [word.lower() for word in words]


def test_words_of_names():
    assert words_of("_HFVisionBackbone") == ["hf", "vision", "backbone"]
    assert words_of("world_size2") == ["world", "size", "2"]


def test_glossary_is_a_table_of_words():
    banned, accepted = glossary()
    assert len(banned) > 40
    assert "world_size" in accepted


@pytest.mark.parametrize("path", [*MODULES, *RECIPES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_use_the_words_of_the_glossary(path):
    banned, accepted = glossary()

    offending = []
    for name in public_names(path):
        remainder = name
        for phrase in accepted:
            remainder = remainder.replace(phrase, "")
        if banned & set(words_of(remainder)):
            offending.append(name)

    assert offending == [], "see the glossary in CONTRIBUTING.md"


# Style


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_public_functions_are_typed(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    untyped = [node.name for node in functions if node.returns is None and not node.name.startswith("_")]
    assert untyped == []


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_passes(command):
    run = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--no-cache", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout


# Content of files


def committed_texts() -> Iterator[tuple[str, str]]:
    """Yield name and text of every committed text file."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        if not path.is_file():
            continue
        content = path.read_bytes()
        if b"\0" not in content:
            yield name, content.decode("utf-8")


FORBIDDEN = {
    "a path of one machine": r"(?<![\w.~/-])/(home|Users|root|work|scratch|mnt)/\w+",
    "a package index": r"py[p]i\.org|pythonhoste[d]|npm[j]s|--(extra-)?index[-]url|--find[-]links",
    "a secret": r"\bsk-[A-Za-z0-9]{20}|BEGIN [A-Z ]*PRIVATE[ ]KEY",
}


@pytest.mark.parametrize("content", FORBIDDEN)
def test_no_committed_file_contains(content):
    pattern = re.compile(FORBIDDEN[content])
    matches = []
    for name, text in committed_texts():
        if match := pattern.search(text):
            matches.append((name, match[0]))

    assert matches == []
