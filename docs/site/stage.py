"""Lay out the pages of the site: `make docs` calls this, then mkdocs.

    python docs/site/stage.py FOLDER

copies the Markdown files and notebooks of the repository to the same places below FOLDER, with the images
and files that they link to, and writes a page for each module of the library. Links to modules lead to these
pages.
"""

import ast
import json
import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "monkeylib"
REFERENCE = "reference"

_LINK = re.compile(r"(?P<before>!?\[(?:[^\]\[]|\[[^\]]*\])*\]\()(?P<target>[^)\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def main() -> None:
    """Lay out everything in the folder that the command line names; what is in it is replaced."""
    folder = Path(sys.argv[1])
    if folder.exists() and not (folder / REFERENCE).is_dir():
        raise SystemExit(f"{folder} is no earlier layout of the site: name another folder, or remove it")
    shutil.rmtree(folder, ignore_errors=True)

    write_reference(folder)
    for page in pages():
        text = page.read_text(encoding="utf-8")
        place = folder / page.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(
            convert_notebook(text, page, folder) if page.suffix == ".ipynb" else convert(text, page, folder)
        )


def pages() -> list[Path]:
    """Return the Markdown files and the notebooks of the repository."""
    patterns = ("*.md", "docs/*.md", "*/README.md", "*/*/README.md", "data/models/*/README.md")
    return sorted({path for pattern in (*patterns, "notebooks/*.ipynb") for path in ROOT.glob(pattern)})


def modules() -> dict[str, Path]:
    """Return the public modules of the library, by their dotted names."""
    paths = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            paths[".".join(parts)] = path
    return paths


def reference_page(path: Path) -> Path | None:
    """Return the place of a module's page, or of a package's, below the site; None for anything else."""
    if path != PACKAGE and not path.is_relative_to(PACKAGE):
        return None
    if path.is_dir() and (path / "__init__.py").exists():
        path = path / "__init__.py"
    if path.suffix != ".py":
        return None
    place = Path(REFERENCE) / path.relative_to(ROOT)
    return place.with_name("index.md") if path.name == "__init__.py" else place.with_suffix(".md")


def write_reference(folder: Path) -> None:
    """Write a page for each module, and one that lists them with the first sentence about each."""
    lines = [
        "# Reference",
        "",
        "Every module, from its docstrings and types.",
        "",
        "| module | |",
        "| --- | --- |",
    ]
    for name, path in modules().items():
        place = folder / reference_page(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"# {name}\n\n::: {name}\n")

        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first = docstring.partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        lines.append(f"| [`{name}`]({place.relative_to(folder / REFERENCE).as_posix()}) | {first} |")
    (folder / REFERENCE / "index.md").write_text("\n".join(lines) + "\n")


def convert(text: str, page: Path, folder: Path) -> str:
    """Return a page's text with the links of the site; code stays as it is."""
    parts = _FENCE.split(text)
    parts[::2] = [_LINK.sub(lambda match: convert_link(match, page, folder), part) for part in parts[::2]]
    return "".join(parts)


def convert_link(match: re.Match[str], page: Path, folder: Path) -> str:
    """Return a link as the site needs it; the files that it leads to are copied, or their pages named."""
    target, _, anchor = match["target"].partition("#")
    if not target or "://" in target or target.startswith("mailto:"):
        return match[0]

    file = (page.parent / target).resolve()
    reference = reference_page(file)
    if reference is not None:
        place = folder / reference
    elif file.is_dir() and (file / "README.md").exists():
        place = folder / (file / "README.md").relative_to(ROOT)
    elif file.is_dir():
        # The site has no lists of files.
        return match["before"].lstrip("!")[1:-2]
    else:
        place = folder / file.relative_to(ROOT)
        if file.suffix not in {".md", ".ipynb"}:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)

    here = (folder / page.relative_to(ROOT)).parent
    relative = Path(os.path.relpath(place, here)).as_posix()
    return f"{match['before']}{relative}{'#' + anchor if anchor else ''})"


def convert_notebook(text: str, page: Path, folder: Path) -> str:
    """Return a notebook whose links lead to the pages of the site: mkdocs leaves those of notebooks alone."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            source = convert("".join(cell["source"]), page, folder)
            source = re.sub(r"(\]\([^):]*?)README\.md\b", r"\1index.html", source)
            cell["source"] = re.sub(r"(\]\([^):]*?)\.(?:md|ipynb)\b", r"\1.html", source)
    return json.dumps(notebook)


if __name__ == "__main__":
    main()
