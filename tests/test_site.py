"""The site of `make docs`: its pages are laid out with links that lead somewhere; broken ones are found."""

import importlib.util
import json
import re

import pytest
import yaml

from monkeylib import resources
from monkeylib.reproduce import series
from tests.support import pages

FOLDER = resources.REPOSITORY / "docs" / "site"


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stage, check_links = load("stage"), load("check_links")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "source"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["stage.py", str(folder)])
        stage.main()
    return folder


def test_links_of_laid_out_pages_lead_to_files(site):
    missing = [
        (page.relative_to(site).as_posix(), target)
        for page in site.rglob("*.md")
        for target in pages.links("README.md", page.read_text(encoding="utf-8"))
        if target.partition("#")[0] and not (page.parent / target.partition("#")[0]).exists()
    ]
    assert missing == []


def test_links_to_modules_lead_to_their_pages(site):
    assert "(reference/monkeylib/model/tile_lora.md)" in (site / "README.md").read_text(encoding="utf-8")
    assert (site / "reference/monkeylib/model/tile_lora.md").read_text() == (
        "# monkeylib.model.tile_lora\n\n::: monkeylib.model.tile_lora\n"
    )
    assert (site / "reference/monkeylib/index.md").exists()

    # mkdocs leaves the links of notebooks alone, so that they name the built pages.
    notebook = json.loads((site / "notebooks/01_tiling.ipynb").read_text(encoding="utf-8"))
    text = "".join(cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    assert "(../reference/monkeylib/tiling.html)" in text


def test_links_of_notebooks_lead_to_files_and_pages(site):
    missing = []
    for path in site.rglob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        for target in pages.links("README.md", text):
            file = path.parent / target.partition("#")[0]
            # A page is built of a file beside it; that of a folder is called by its README.
            sources = [file, file.with_suffix(".md"), file.with_suffix(".ipynb"), file.with_name("README.md")]
            if not any(source.exists() for source in sources[: 4 if file.name == "index.html" else 3]):
                missing.append((path.name, target))
    assert missing == []


def test_layout_replaces_no_folder_of_others(monkeypatch, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    monkeypatch.setattr("sys.argv", ["stage.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="is no earlier layout of the site"):
        stage.main()
    assert (tmp_path / "mine.txt").exists()


def test_menu_has_all_guides_and_notebooks():
    settings = yaml.safe_load((FOLDER / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = set(re.findall(r"[\w/.-]+\.(?:md|ipynb)", json.dumps(settings["nav"])))
    assert {f"notebooks/{notebook.name}.ipynb" for notebook in series.SERIES} <= listed
    assert set(pages.GUIDES) <= listed
    assert settings["strict"] and settings["theme"]["font"] is False


def test_broken_links_of_the_built_site_are_found(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text(
        '<a href="a/b.html#here">x</a><a href="a/b.html#gone">x</a><img src="no.png"><a href="https://x.org/y">x</a>'
    )
    (tmp_path / "a" / "b.html").write_text('<h1 id="here">b</h1><a href="../index.html">x</a>')
    assert check_links.broken_links(tmp_path) == [
        "index.html: no anchor a/b.html#gone",
        "index.html: no file no.png",
    ]
