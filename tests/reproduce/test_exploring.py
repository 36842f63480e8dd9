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
tables.write_table([{{"model": "mine", "value": 2}}], "scores", profile)
fig, ax = plt.subplots()
figures.save(fig, "mine", data=tables.table_path("scores", profile), profile=profile, source="a notebook")
print([row["model"] for row in tables.read_table("scores", profile)])
print(tables.read_table("committed", profile)[0]["value"])
"""


def test_results_and_figures_of_a_kernel_leave_the_committed_ones_alone(tmp_path, monkeypatch):
    committed = tmp_path / "data" / "results" / "nano"
    committed.mkdir(parents=True)
    (committed / "scores.csv").write_text("model,value\ntheirs,1\n")
    (committed / "committed.csv").write_text("model,value\ntheirs,7\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.csv")}

    monkeypatch.delenv("MONKEYLIB_OUTPUTS", raising=False)
    monkeypatch.delenv(resources.STARTED_BY, raising=False)
    path = write_notebook(tmp_path / "own.ipynb", WORK.format(folder=str(tmp_path)))
    notebook = notebooks.read(path)
    NotebookClient(notebook, kernel_name="python3").execute()

    printed = [output.text for output in notebook.cells[-1].outputs if output.output_type == "stream"]
    assert "".join(printed) == "['mine']\n7\n"
    lab = tmp_path / "data" / "lab"
    written = {file.relative_to(lab).as_posix() for file in lab.rglob("*") if file.is_file()}
    assert {"data/results/nano/scores.csv", "figures/mine.png", "figures/mine.pdf"} < written
    assert before == {path: path.read_bytes() for path in before}
    assert not (tmp_path / "figures").exists()
