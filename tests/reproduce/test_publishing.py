"""Results of a run of the series: held beside those of the repository, and published there."""

import json

import pytest

from monkeylib import resources, tables
from monkeylib.reproduce import notebooks, publishing
from monkeylib.reproduce.series import Notebook, run_series, unpublished_results
from tests.support.notebook_files import write_notebook

SERIES = (Notebook("00_first"),)
# In the kernel, a folder of the test stands for the checkout.
WORK = """
from pathlib import Path
from monkeylib import resources, tables
import matplotlib.pyplot as plt
from monkeylib.reproduce import figures
resources.REPOSITORY = Path({folder!r})
print(tables.read_table("grid", profile)[0]["value"])
rows = [{{"model": "a", "value": 0.25 + seed}}, {{"model": "b", "value": 2}}]
path = tables.write_table(rows, "scores", profile)
print(resources.display_path(path))
fig, ax = plt.subplots()
figures.save(fig, "curve", data=path, profile=profile, source="00_first")
"""


@pytest.fixture()
def repository(tmp_path, monkeypatch):
    """Make a checkout of one notebook, with results and figures that are committed."""
    monkeypatch.setattr(resources, "REPOSITORY", tmp_path)
    monkeypatch.delenv("MONKEYLIB_OUTPUTS", raising=False)
    monkeypatch.delenv(resources.REPRODUCES, raising=False)
    write_notebook(tmp_path / "notebooks/00_first.ipynb", WORK.format(folder=str(tmp_path)))
    (tmp_path / "requirements.lock").touch()

    results = tmp_path / "data" / "results" / "nano"
    results.mkdir(parents=True)
    (results / "grid.csv").write_text("model,value\nours,7\n")
    (results / "scores.csv").write_text("model,value\na,0.2\nb,2\n")
    (tmp_path / "figures").mkdir()
    other = {"files": ["other.png"], "source": "a module"}
    (tmp_path / "figures" / "manifest.json").write_text(json.dumps({"other": other}))
    return tmp_path


def committed_files(repository):
    folders = (repository / "data" / "results", repository / "figures", repository / "notebooks")
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def printed(notebook):
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def test_a_run_changes_nothing_that_is_committed_before_it_is_published(repository):
    before = committed_files(repository)
    assert run_series("nano", series=SERIES, log=lambda _: None) == ["00_first"]
    assert committed_files(repository) == before

    own = repository / "data" / "reproduced" / "nano-seed-0"
    assert (own / "data/results/nano/scores.csv").read_text() == "model,value\na,0.25\nb,2\n"
    assert (own / "figures/curve.png").exists()

    with unpublished_results("nano", 0):
        # What no notebook of the run has made is read from the repository, and what one has made is not.
        assert tables.read_table("grid", "nano") == [{"model": "ours", "value": 7}]
        assert tables.read_table("scores", "nano")[0]["value"] == 0.25
        assert publishing.compare_with_published("nano", 0, SERIES) == [
            "0 of 1 tables are those of the repository",
            "scores.csv differs in 1 of 4 fields, by 0.2 of their value at most",
        ]
        written = {path.relative_to(repository).as_posix() for path in publishing.publish(SERIES)}
        assert publishing.compare_with_published("nano", 0, SERIES) == [
            "1 of 1 tables are those of the repository"
        ]

    assert written == {
        "data/results/nano/scores.csv",
        "figures/curve.pdf",
        "figures/curve.png",
        "figures/manifest.json",
        "notebooks/00_first.ipynb",
    }
    entries = json.loads((repository / "figures" / "manifest.json").read_text())
    assert [*entries] == ["curve", "other"]
    assert entries["curve"]["data"] == ["data/results/nano/scores.csv"]
    # Paths are printed as they are in the repository.
    notebook = notebooks.read(repository / "notebooks" / "00_first.ipynb")
    assert printed(notebook) == "7\ndata/results/nano/scores.csv\n"

    # What is published is not written again.
    with unpublished_results("nano", 0):
        assert publishing.publish(SERIES) == []


def test_another_seed_lies_in_a_folder_of_its_own_and_is_not_published(repository):
    before = committed_files(repository)
    run_series("nano", seed=1, series=SERIES, log=lambda _: None)
    own = repository / "data" / "reproduced" / "nano-seed-1" / "data/results/nano/scores.csv"
    assert own.read_text() == "model,value\na,1.25\nb,2\n"

    with unpublished_results("nano", 1), pytest.raises(ValueError, match="profile nano and seed 0"):
        publishing.publish(SERIES)
    assert committed_files(repository) == before


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model,value\na,0.2\nb,2\n", ""),
        ("model,value\r\na,0.20\r\nb,2\r\n", ""),
        ("model,value\na,0.2\nc,2\n", "scores.csv differs in 1 of 4 fields, some of them not numbers"),
        ("model,value\na,0.2\nb,\n", "scores.csv differs in 1 of 4 fields, some of them not numbers"),
        ("model,value\na,0.2\n", "scores.csv has another number of rows: 1, and in the repository 2"),
        ("model,score\na,0.2\nb,2\n", "scores.csv has other columns"),
    ],
)
def test_tables_that_differ_are_told_by_how_much(repository, text, sentence):
    cell = f"from monkeylib import resources\nresources.REPOSITORY = Path({str(repository)!r})\n"
    cell += 'path = resources.results(profile) / "scores.csv"\npath.parent.mkdir(parents=True)\n'
    cell += f"path.write_text({text!r})"
    write_notebook(repository / "notebooks/00_first.ipynb", f"from pathlib import Path\n{cell}")
    run_series("nano", series=SERIES, log=lambda _: None)

    with unpublished_results("nano", 0):
        total = "0 of 1" if sentence else "1 of 1"
        expected = [f"{total} tables are those of the repository", *([sentence] if sentence else [])]
        assert publishing.compare_with_published("nano", 0, SERIES) == expected
        # Results of a notebook that is out of date say nothing.
        (repository / "requirements.lock").write_text("other versions")
        assert publishing.compare_with_published("nano", 0, SERIES) == []


def test_where_nothing_is_committed_results_lie_as_ever(repository, monkeypatch):
    with unpublished_results("smoke", 0):
        assert resources.results("smoke") == repository / "data" / "results" / "smoke"
        assert publishing.compare_with_published("smoke", 0, SERIES) == []
        with pytest.raises(ValueError, match="profile nano and seed 0"):
            publishing.publish(SERIES)
    monkeypatch.setattr(resources, "is_installed", lambda: True)
    with unpublished_results("nano", 0):
        assert resources.reproduced() is None
