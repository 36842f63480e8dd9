"""Notebooks that a user runs in a checkout."""

from nbclient import NotebookClient

from monkeylib import resources
from monkeylib.reproduce import notebooks
from tests.support.notebook_files import write_notebook

# In the kernel, a folder of the test stands for the checkout.
WORK = """
from pathlib import Path
from monkeylib import resources, tables
import matplotlib.pyplot as plt
from monkeylib.reproduce import figures
resources.REPOSITORY = Path({folder!r})
resources.use_seed(seed)
tables.write_table([{{"model": "mine", "value": 2}}], "scores", profile)
fig, ax = plt.subplots()
figures.save(fig, "mine", data=tables.table_path("scores", profile), profile=profile, source="a notebook")
print([row["model"] for row in tables.read_table("scores", profile)])
print(tables.read_table("committed", profile)[0]["value"])
"""


def explore(folder, **parameters):
    """Run the cells in a checkout with these parameters, and return what they print."""
    lines = [f"{name} = {value!r}" for name, value in {"profile": "nano", "seed": 0, **parameters}.items()]
    path = write_notebook(folder / "own.ipynb", WORK.format(folder=str(folder)), parameters="\n".join(lines))
    notebook = notebooks.read(path)
    NotebookClient(notebook, kernel_name="python3").execute()
    outputs = [output for output in notebook.cells[-1].outputs if output.output_type == "stream"]
    return "".join(output.text for output in outputs if output.name == "stdout")


def test_results_and_figures_of_a_kernel_leave_the_committed_ones_alone(tmp_path, monkeypatch):
    committed = tmp_path / "data" / "results" / "nano"
    committed.mkdir(parents=True)
    (committed / "scores.csv").write_text("model,value\ntheirs,1\n")
    (committed / "committed.csv").write_text("model,value\ntheirs,7\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.csv")}

    monkeypatch.delenv("MONKEYLIB_OUTPUTS", raising=False)
    monkeypatch.delenv(resources.STARTED_BY, raising=False)
    assert explore(tmp_path) == "['mine']\n7\n"
    lab = tmp_path / "data" / "lab"
    written = {file.relative_to(lab).as_posix() for file in lab.rglob("*") if file.is_file()}
    assert {"data/results/nano/scores.csv", "figures/mine.png", "figures/mine.pdf"} < written
    assert before == {path: path.read_bytes() for path in before}
    assert not (tmp_path / "figures").exists()

    # Another seed writes beside them.
    of_seed_0 = {file: file.read_bytes() for file in lab.rglob("*") if file.is_file()}
    assert explore(tmp_path, seed=7) == "['mine']\n7\n"
    assert of_seed_0 == {file: file.read_bytes() for file in of_seed_0}
    others = {file.relative_to(lab).as_posix() for file in lab.rglob("*") if file.is_file()} - written
    assert others == {f"seed-7/{name}" for name in written}
    assert before == {path: path.read_bytes() for path in before}
