"""Every committed notebook has the header and the installing cell that code writes."""

import re
import subprocess
import sys
import tomllib

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from monkeylib import resources, tables
from monkeylib.reproduce import headers, notebooks, series
from tests.support.notebook_files import write_notebook


@pytest.mark.parametrize("notebook", series.SERIES, ids=lambda notebook: notebook.name)
def test_committed_notebooks_have_the_header_that_code_writes(notebook):
    document = notebooks.read(resources.notebooks() / f"{notebook.name}.ipynb")
    assert headers.with_header(document, notebook) == document, "run `python -m monkeylib.reproduce.headers`"


@pytest.fixture()
def repository(tmp_path, monkeypatch):
    """Return a repository of three notebooks, published as ours."""
    lines = '[project]\nversion = "1.2"\nurls = { Repository = "https://github.com/us/ours" }\n'
    (tmp_path / "pyproject.toml").write_text(lines)
    for name in ("01_a", "02_b", "03_c"):
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", "1 + 1")
    monkeypatch.setattr(resources, "REPOSITORY", tmp_path)
    monkeypatch.setattr(headers, "MINUTES", tmp_path / "minutes.csv")
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    return tuple(series.Notebook(name, paper="section 3.1") for name in ("01_a", "02_b", "03_c"))


def test_header_has_badges_paper_and_neighbours(repository):
    text = headers.header_text(repository[1], repository)
    path = "us/ours/blob/v1.2/notebooks/02_b.ipynb"
    for place in ("colab.research.google.com/github/", "kaggle.com/kernels/welcome?src=https://github.com/"):
        assert f"(https://{place}{path})" in text
    assert f"(https://nbviewer.org/github/{path})" in text
    assert text.endswith("Paper: section 3.1 · Previous: [A title](01_a.ipynb) · Next: [A title](03_c.ipynb)")

    assert "Previous" not in headers.header_text(repository[0], repository)
    assert "Next" not in headers.header_text(repository[2], repository)


def test_header_has_the_minutes_of_executed_notebooks(repository, tmp_path):
    for profile, seconds in (("nano", 130.0), ("smoke", 20.0)):
        path = write_notebook(tmp_path / "data/runs" / profile / "notebooks" / "02_b.ipynb")
        document = notebooks.read(path)
        document.metadata["papermill"] = {"duration": seconds, "exception": None}
        notebooks.write(document, path)
    failed = notebooks.read(path)
    failed.metadata["papermill"] = {"duration": 1.0, "exception": True}
    notebooks.write(failed, path.with_name("01_a.ipynb"))
    other = notebooks.read(path)
    other.metadata["papermill"] = {"duration": 1.0, "exception": None, "parameters": {"seed": 7}}
    (tmp_path / "data/runs/smoke-seed-7/notebooks").mkdir(parents=True)
    notebooks.write(other, tmp_path / "data/runs/smoke-seed-7/notebooks/02_b.ipynb")

    headers.write_minutes()
    rows = tables.read_csv(tmp_path / "minutes.csv")
    assert [(row["notebook"], row["profile"], row["minutes"]) for row in rows] == [
        ("02_b", "nano", 2.2),
        ("02_b", "smoke", 0.3),
    ]
    assert "cores: 2 (nano), under 1 (smoke)" in headers.header_text(repository[1], repository)


def test_other_cells_and_outputs_stay(repository):
    first, second = (new_code_cell(source, id=source, execution_count=3) for source in ("a", "b"))
    second.outputs = [new_output("execute_result", {"text/plain": "1"}, execution_count=3)]
    document = new_notebook(cells=[new_markdown_cell("# A title", id="title"), first, second])

    headed = headers.with_header(document, repository[0], repository)
    assert [cell.id for cell in headed.cells] == ["title", "header", "bootstrap", "a", "b"]
    assert [cell.execution_count for _, cell in notebooks.code_cells(headed)] == [1, 2, 3]
    assert headed.cells[-1].outputs[0].data == {"text/plain": "1"}
    assert headers.with_header(headed, repository[0], repository) == headed, "written once"


def test_notebooks_of_the_repository_are_headed(repository, tmp_path):
    headers.write_headers(repository)
    documents = [notebooks.read(path) for path in sorted((tmp_path / "notebooks").glob("*.ipynb"))]
    assert [document.cells[1].id for document in documents] == ["header"] * 3


def test_first_cell_installs_what_the_widgets_of_the_series_need():
    """A server need not have ipywidgets: without them a notebook alone shows figures where nothing moves."""
    extras = re.search(r"monkeylib\[([\w,]+)\]", headers.bootstrap_code()).group(1).split(",")
    project = tomllib.loads((resources.REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installed = {
        re.match(r"[\w-]+", requirement).group()
        for extra in extras
        for requirement in project["optional-dependencies"][extra]
    }
    assert "ipywidgets" in installed


def run_bootstrap(folder, *, is_there: bool) -> str:
    """Run the installing cell with a pip that only prints its arguments; return what it prints."""
    code = notebooks.python(new_notebook(cells=[new_code_cell(headers.bootstrap_code())]))
    lines = [
        "import importlib.util, sys",
        f"importlib.util.find_spec = lambda name: {is_there or None}",
        "class Shell:",
        "    def run_line_magic(self, name, line): print(name, line.format(package=package))",
        "def get_ipython(): return Shell()",
    ]
    command = [sys.executable, "-c", "\n".join([*lines, code])]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return run.stdout


def test_first_cell_installs_only_where_monkeylib_is_missing(repository, tmp_path, monkeypatch):
    monkeypatch.delenv("MONKEYLIB_SOURCE", raising=False)
    assert run_bootstrap(tmp_path, is_there=True) == ""
    line = run_bootstrap(tmp_path, is_there=False)
    assert line.startswith("pip install ") and "@ git+https://github.com/us/ours@v1.2" in line

    monkeypatch.setenv("MONKEYLIB_SOURCE", "/a/monkeylib.whl")
    assert "] @ /a/monkeylib.whl" in run_bootstrap(tmp_path, is_there=False)
