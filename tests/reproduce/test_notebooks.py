"""Committed notebooks keep the rules, and nbval finds a result that does not hold."""

import base64
import io
import shutil

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_output
from PIL import Image

from monkeylib import resources
from monkeylib.reproduce import notebooks, series
from tests.support.notebook_files import run_nbval, write_notebook

COMMITTED = sorted(resources.notebooks().glob("*.ipynb"))
TITLES = [path.stem for path in COMMITTED]
CHECKED, SKIPPED = notebooks.CHECKED, notebooks.SKIPPED


def execute(path):
    """Run a notebook in place, bring it to its committed form, and return its path."""
    notebook = notebooks.read(path)
    NotebookClient(notebook, kernel_name="python3").execute()
    notebooks.write(notebooks.normalise(notebook), path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Execute a notebook: two cells state results, one is skipped by tests, one only has to run."""
    folder = tmp_path_factory.mktemp("small")
    shutil.copy(resources.notebooks() / "conftest.py", folder)
    path = write_notebook(
        folder / "small.ipynb",
        "import pandas as pd\nimport time\nprint(time.time())",
        ("print('exact match', 0.625)", CHECKED),
        ("pd.DataFrame({'model': ['base', 'Monkey'], 'fine': [12.5, 63.3]})", CHECKED),
        ("raise_if_tested = 1 / int(profile == 'nano')", SKIPPED),
    )
    return execute(path)


def test_nbval_passes_on_an_executed_notebook(small, tmp_path):
    run = run_nbval([small], tmp_path)
    assert run.returncode == 0, run.stdout
    assert notebooks.problems(small) == []


# What is altered, and how the five cells end: passed, failed, skipped.
ALTERATIONS = [
    ("0.625\\n", "0.725\\n", "..F.s"),  # a printed result
    ("  63.3", "  83.3", "...Fs"),  # a number in a table
    ("'exact match', 0.625)", "'exact match', 0.5)", "..F.s"),  # the code that gives it
    ("int(profile == 'nano')", "int(profile == 'smoke')", "....s"),  # a skipped cell isn't run
]


def test_nbval_fails_exactly_where_a_stated_result_is_altered(small, tmp_path):
    shutil.copy(small.parent / "conftest.py", tmp_path)
    text = small.read_text(encoding="utf-8")

    altered = [tmp_path / f"{number}.ipynb" for number in range(len(ALTERATIONS))]
    for path, (old, new, _) in zip(altered, ALTERATIONS, strict=True):
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    run = run_nbval(altered, tmp_path / "out")
    assert run.stdout.split()[0] == "".join(cells for *_, cells in ALTERATIONS), run.stdout


def break_rule(notebook, problem):
    """Put a problem into the second code cell of a notebook, or into the notebook itself."""
    if isinstance(problem, dict):
        notebook.cells[2].update(problem)
    else:
        problem(notebook)


RULES = [
    ({"source": "\n".join(f"a = {n}" for n in range(26))}, "26 lines, at most 25"),
    ({"source": "class A:\n    pass"}, "defines the class A"),
    (
        {"source": "def f():\n    a = 1\n    b = 2\n    c = 3\n    d = 4\n    return a"},
        "the function f has over 5 lines",
    ),
    ({"source": " "}, "empty"),
    ({"execution_count": None}, "execution counts are [1, None, 3], expected 1 to 3"),
    ({"execution_count": 7}, "execution counts are [1, 7, 3], expected 1 to 3"),
    ({"outputs": [new_output("error", ename="E", evalue="", traceback=[])]}, "holds an error"),
    (
        {"outputs": [new_output("display_data", {"text/plain": "PosixPath('/" + "home/me/table.csv')"})]},
        "shows a path of the machine",
    ),
    ({"outputs": [new_output("stream", name="stderr", text="warning")]}, "not in committed form"),
    ({"metadata": {"papermill": {"duration": 1.0}}}, "not in committed form"),
    ({"metadata": {"tags": ["nbval-chek-output"]}}, "unknown tags ['nbval-chek-output']"),
    ({"metadata": {"tags": [CHECKED, SKIPPED]}}, "can't be both"),
    ({"metadata": {"tags": [CHECKED]}, "outputs": []}, "has no output"),
    (
        {"metadata": {"tags": ["parameters"]}, "source": "seed = 0"},
        "one code cell tagged 'parameters': found 2",
    ),
    (lambda notebook: notebook.metadata.update(papermill={}), "not in committed form"),
    (lambda notebook: notebook.cells[0].update(source="No title"), "doesn't open with a title"),
    (lambda notebook: notebook.cells[1].update(source="seed = 1 + int(2)"), "only `name = literal`"),
    (lambda notebook: notebook.cells[3].update(metadata={"tags": []}), "states no result"),
    ({"outputs": [new_output("stream", text="x" * 900_000)]}, "larger than 800 kB"),
]


@pytest.mark.parametrize(("problem", "sentence"), RULES, ids=[sentence for _, sentence in RULES])
def test_broken_rule_is_reported(tmp_path, problem, sentence):
    path = write_notebook(tmp_path / "a.ipynb", "1 + 1", ("print(2)", CHECKED))
    notebook = notebooks.read(path)

    # As if it had been executed.
    for count, (_, cell) in enumerate(notebooks.code_cells(notebook), start=1):
        cell.execution_count = count
    notebook.cells[3].outputs = [new_output("stream", text="2\n")]
    notebooks.write(notebook, path)
    assert notebooks.problems(path) == []

    break_rule(notebook, problem)
    nbformat.write(notebook, path)

    problems = notebooks.problems(path)
    assert any(sentence in reported for reported in problems), problems


def test_file_that_is_not_a_notebook_raises(tmp_path):
    (tmp_path / "a.ipynb").write_text("{")
    with pytest.raises(ValueError, match="not a readable notebook"):
        notebooks.read(tmp_path / "a.ipynb")


def test_magics_become_python(tmp_path):
    path = write_notebook(tmp_path / "a.ipynb", "%pip install monkeylib\nfrom monkeylib import tiling")
    code = notebooks.python(notebooks.read(path))
    compile(code, "a", "exec")
    assert "from monkeylib import tiling" in code


def test_notebooks_of_the_series_exist():
    assert {notebook.name for notebook in series.SERIES} <= set(TITLES)


@pytest.mark.parametrize("path", COMMITTED, ids=TITLES)
def test_committed_notebooks_keep_the_rules(path):
    assert notebooks.problems(path) == []


def test_large_images_are_committed_in_less_space(tmp_path):
    """A photograph as a JPEG, a large drawing as a PNG with a palette, a small one as it is."""
    draw = "import numpy as np, matplotlib.pyplot as plt\n%matplotlib inline\n"
    noise = draw + "_ = plt.imshow(np.random.default_rng(0).random((300, 300, 3)))"
    line = "_ = plt.plot([1, 2])"
    large = (
        "fig, ax = plt.subplots(figsize=(12, 10))\n"
        "for n in range(1200):\n"
        "    ax.text(n % 30 / 30, n / 1200, n, fontsize=7)"
    )
    path = execute(write_notebook(tmp_path / "a.ipynb", noise, line, large))

    notebook = notebooks.read(path)
    images = []
    for _, cell in notebooks.code_cells(notebook):
        for output in cell.outputs:
            images += [item for item in output.get("data", {}).items() if item[0].startswith("image/")]

    assert [kind for kind, _ in images] == ["image/jpeg", "image/png", "image/png"]
    modes = [Image.open(io.BytesIO(base64.b64decode(encoded))).mode for _, encoded in images]
    assert modes[0] == "RGB" and modes[2] == "P"
    assert notebooks.normalise(notebook) == notebook
