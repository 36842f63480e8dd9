"""The series of notebooks, tested on three tiny notebooks in a repository of their own."""

import io
import json
import os
import sys

import nbformat
import pytest
from rich.console import Console

from monkeylib import resources, tables
from monkeylib.experiments.cell import folder_of
from monkeylib.profiles import load_profile
from monkeylib.reproduce import notebooks, publishing, series
from monkeylib.reproduce.series import (
    Notebook,
    NotebookFailed,
    NotebookRun,
    run_series,
    unpublished_results,
)
from monkeylib.runs import RunFolder, read_manifest
from tests.support.notebook_files import write_notebook

SERIES = (
    Notebook("00_first", inputs=("data/models/base",)),
    Notebook("01_independent"),
    Notebook("02_after_first", needs=("00_first",)),
)
WRITE = """
from monkeylib import resources
(resources.runs(profile)).mkdir(parents=True, exist_ok=True)
(resources.runs(profile) / "model.txt").write_text("trained")
"""
READ = 'print((resources.runs(profile) / "model.txt").read_text())'


@pytest.fixture()
def repository(monkeypatch, tmp_path):
    """Make a repository with the series; outputs go to its folder `out`."""
    monkeypatch.setattr(resources, "REPOSITORY", tmp_path)
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "out"))
    for name in ("requirements.lock", "data/models/base/weights.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    write_notebook(tmp_path / "notebooks/00_first.ipynb", WRITE)
    write_notebook(
        tmp_path / "notebooks/01_independent.ipynb", "import sys\nprint(sys.executable)\nprint(profile, seed)"
    )
    write_notebook(tmp_path / "notebooks/02_after_first.ipynb", f"from monkeylib import resources\n{READ}")
    return tmp_path


def run(**options):
    return run_series(options.pop("profile", "nano"), series=SERIES, log=lambda line: None, **options)


def printed_text(name, profile="nano"):
    notebook = nbformat.read(resources.runs(profile) / "notebooks" / f"{name}.ipynb", as_version=4)
    return "".join(output.text for cell in notebook.cells for output in cell.get("outputs", []))


def test_series_runs_in_order_and_then_only_what_has_changed(repository):
    names = [notebook.name for notebook in SERIES]
    assert run() == names
    assert run() == []

    # In the kernel of this environment, with default parameters.
    assert printed_text("01_independent") == f"{sys.executable}\nnano 0\n"
    assert printed_text("02_after_first") == "trained\n"

    # A changed input reaches the notebooks that build on it, and no others.
    (repository / "data/models/base/weights.bin").write_text("2")
    assert run() == ["00_first", "02_after_first"]

    # So does a missing output.
    (resources.runs("nano") / "model.txt").unlink()
    assert run() == ["00_first", "02_after_first"]

    write_notebook(repository / "notebooks/01_independent.ipynb", "print(profile)")
    assert run() == ["01_independent"]
    assert run(only=["02"], force=True) == ["02_after_first"]
    assert run(only=["02", "00"], force=True) == ["00_first", "02_after_first"]

    # Other versions of libraries may give other results.
    (repository / "requirements.lock").write_text("2")
    assert run() == names


def test_parameters_other_than_the_default_are_set(repository):
    run_series("smoke", seed=3, series=SERIES[1:2], log=lambda line: None)
    assert printed_text("01_independent", "smoke-seed-3").endswith("smoke 3\n")


def test_bars_of_loading_are_no_outputs_of_notebooks(repository, monkeypatch):
    # Set first, so that what the series sets is taken back after the test.
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS")
    code = "from huggingface_hub.utils import are_progress_bars_disabled\nprint(are_progress_bars_disabled())"
    write_notebook(repository / "notebooks/01_independent.ipynb", code)
    run(only=["01"])
    assert printed_text("01_independent") == "True\n"


SEEDED = """
from matplotlib import pyplot as plt
from monkeylib import resources, tables
from monkeylib.reproduce import figures
from monkeylib.runs import RunFolder

resources.use_seed(seed)
with RunFolder.open(resources.runs(profile, seed) / "model", "training", {}) as folder:
    folder.start()
    folder.own("model.txt").write_text(f"trained with {seed}")
    folder.finish()
path = tables.write_table([{"seed": seed}], "scores", profile)
fig, ax = plt.subplots()
ax.plot([seed, 1])
figures.save(fig, "curve", data=path, profile=profile, source="00_first")
"""


def file_bytes(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_each_seed_has_runs_and_results_of_its_own(repository):
    write_notebook(repository / "notebooks/00_first.ipynb", SEEDED)
    lines = []
    options = {"series": SERIES[:1], "log": lines.append}
    run_series("smoke", seed=0, **options)
    before = file_bytes(resources.outputs())
    names = {path.name for path in before}
    assert {"00_first.ipynb", "00_first.run.json", "model.txt", "scores.csv", "curve.png"} <= names

    run_series("smoke", seed=7, **options)
    after = file_bytes(resources.outputs())
    assert before.items() <= after.items()
    others = [path for path in after if path not in before]
    assert {path.name for path in others} == names
    assert all("smoke-seed-7" in path.as_posix() for path in others)
    assert (resources.runs("smoke", 7) / "model/model.txt").read_text() == "trained with 7"
    (scores,) = (after[path] for path in others if path.name == "scores.csv")
    assert scores == b"seed\n7\n"

    # Both are up to date, and the outdated one of another seed takes none of the files of seed 0 with it.
    lines.clear()
    for seed in (0, 7):
        assert run_series("smoke", seed=seed, **options) == []
    assert lines == ["00_first: unchanged since its last run"] * 2
    assert run_series("smoke", seed=7, force=True, **options) == ["00_first"]
    assert before.items() <= file_bytes(resources.outputs()).items()
    assert run_series("smoke", seed=0, **options) == []
    assert {resources.SEED, resources.REPRODUCES} & os.environ.keys() == set()


def test_failing_notebook_stops_the_series_and_the_next_call_resumes_there(repository):
    source = repository / "notebooks/01_independent.ipynb"
    write_notebook(source, "print('so far')", "raise RuntimeError('two\\nlines')")

    message = r"01_independent stopped in cell \[3\] with RuntimeError: two lines \("
    with pytest.raises(NotebookFailed, match=message) as failure:
        run()

    # The message names the partly executed notebook, which can be read.
    executed = resources.runs("nano") / "notebooks"
    assert "data/runs/nano/notebooks/01_independent.ipynb" in str(failure.value)
    partial = nbformat.read(executed / "01_independent.ipynb", as_version=4)
    assert any("so far" in str(cell.get("outputs")) for cell in partial.cells)
    assert not (executed / "02_after_first.ipynb").exists()

    write_notebook(source, "print('fixed')")
    assert run() == ["01_independent", "02_after_first"]


COUNT_STEPS = """
from monkeylib import resources
steps = resources.runs(profile) / "model" / "steps.txt"
steps.parent.mkdir(parents=True, exist_ok=True)
with open(steps, "a") as file:
    file.write("step ")
"""


def test_interrupted_run_is_resumed_and_outdated_one_is_not(repository):
    source = repository / "notebooks/00_first.ipynb"
    steps = repository / "out/data/runs/nano/model/steps.txt"
    fail_at_first = "import pathlib\nassert pathlib.Path('../go').exists()"
    write_notebook(source, COUNT_STEPS, fail_at_first)

    with pytest.raises(NotebookFailed, match="AssertionError"):
        run(only=["00"])
    (repository / "go").touch()
    assert run(only=["00"]) == ["00_first"]
    assert steps.read_text() == "step step ", "the same code continues from the files of the failed run"

    check = "assert not steps.parent.exists()\nsteps.parent."
    write_notebook(source, COUNT_STEPS.replace("steps.parent.", check), fail_at_first)
    assert run(only=["00"]) == ["00_first"]
    assert steps.read_text() == "step ", "changed code starts from scratch"


def test_run_records_list_dependencies_and_outputs(repository):
    run(only=["00"])
    folder = resources.runs("nano") / "notebooks"
    written = ["00_first.ipynb", "00_first.run.json"]
    assert sorted(file.name for file in folder.iterdir()) == [*written, "run.json"]
    assert set(written) <= set(read_manifest(folder).files)

    record = json.loads((folder / "00_first.run.json").read_text())
    assert record["ended"]
    state = (resources.runs("nano") / "model.txt").stat()
    assert record["outputs"] == {"data/runs/nano/model.txt": [state.st_size, state.st_mtime_ns]}

    # Of the library, only the code that the notebook reaches.
    dependencies = record["dependencies"].keys()
    assert {"its code", "data/models/base/weights.bin", "monkeylib/resources.py"} <= dependencies
    assert "monkeylib/tables.py" not in dependencies


@pytest.fixture()
def without_kernel(monkeypatch):
    """Have notebooks write a text and a run folder instead of being executed in a kernel of their own."""

    def write(self):
        root = self.runs
        self.executed.write_text("executed")
        (root / "text.txt").write_text("written")
        with RunFolder.open(root / f"model-{self.notebook.name[:2]}", "training", {}) as folder:
            assert folder.state == "new" or not folder.manifest.files
            folder.start()
            folder.own("weights.bin").write_text("trained")
            folder.finish()

    monkeypatch.setattr(NotebookRun, "_execute_cells", write)


@pytest.mark.parametrize("name", ["00_first.ipynb", "00_first.run.json", "notes.txt"])
def test_foreign_file_among_the_executed_notebooks_stays(repository, without_kernel, name):
    file = resources.runs("nano") / "notebooks" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(FileExistsError, match=f"no run of monkeylib wrote, such as {name}: .*move them away"):
        run(only=["00"])
    assert [path.name for path in file.parent.iterdir()] == [name] and file.read_text() == "mine"


def test_file_in_the_way_of_a_later_notebook_is_reported_before_the_first_one_runs(
    repository, without_kernel
):
    assert run(only=["00"]) == ["00_first"]
    file = resources.runs("nano") / "notebooks" / "02_after_first.ipynb"
    file.write_text("mine")
    with pytest.raises(FileExistsError, match="02_after_first.ipynb is in the way"):
        run(force=True)
    assert file.read_text() == "mine"
    assert not (file.parent / "01_independent.ipynb").exists()


def test_series_runs_once_at_a_time_per_profile_and_seed(repository, without_kernel):
    with RunFolder.open(resources.runs("nano") / "notebooks", "series", {}):
        with pytest.raises(BlockingIOError, match="data/runs/nano/notebooks is in use by process"):
            run(only=["00"])
        assert run_series("smoke", series=SERIES[:1], log=lambda line: None) == ["00_first"]
        resources.runs("nano", 7).mkdir()
        assert run_series("nano", 7, series=SERIES[:1], log=lambda line: None) == ["00_first"]


def test_only_files_of_the_series_are_removed_before_a_notebook_runs_again(repository, without_kernel):
    run(only=["00"])
    root = resources.runs("nano")
    (root / "notes.txt").write_text("mine")
    (root / "model-00" / "notes.txt").write_text("mine")

    # A run record names whatever somebody has written into it.
    victim = repository / "victim.txt"
    victim.write_text("mine")
    record_file = root / "notebooks" / "00_first.run.json"
    record = json.loads(record_file.read_text())
    for name in ("victim.txt", "data/runs/nano/notes.txt", "data/runs/nano/../../../../victim.txt"):
        state = (resources.outputs() / name if ".." in name else victim).stat()
        record["outputs"][name] = [state.st_size, state.st_mtime_ns]
    record_file.write_text(json.dumps(record))

    # The notebook asserts that the files of its earlier run are gone.
    assert run(only=["00"], force=True) == ["00_first"]
    for file in (victim, root / "notes.txt", root / "model-00" / "notes.txt"):
        assert file.read_text() == "mine"


def test_cells_of_the_grid_stay_although_they_came_while_a_notebook_ran(repository):
    cell = folder_of(load_profile("nano")) / "shared-ordinary-0" / "result.json"
    assert cell.is_relative_to(resources.grid_runs("nano"))

    write = f"from pathlib import Path\nPath({str(cell.parent)!r}).mkdir(parents=True, exist_ok=True)\n"
    write += f"Path({str(cell)!r}).write_text('hours of work')\n{WRITE}"
    write_notebook(repository / "notebooks/00_first.ipynb", write)
    assert run(only=["00"]) == ["00_first"]

    # The notebook is outdated, and its own files go.
    write_notebook(repository / "notebooks/00_first.ipynb", WRITE)
    assert run(only=["00"]) == ["00_first"]
    assert cell.read_text() == "hours of work"

    # Nor is it outdated where a cell is gone.
    cell.unlink()
    assert run(only=["00"]) == []


RUNS = """
import os
from monkeylib import resources, runs

for name in ("by_the_notebook", "by_another_terminal"):
    with runs.RunFolder.open(resources.runs(profile) / name, "training", {}) as folder:
        folder.start()
        folder.own("model.txt").write_text("hours of work")
        folder.finish()
    os.environ.pop(resources.STARTED_BY, None)  # for the second one
"""


def test_runs_of_another_terminal_stay_although_they_came_while_a_notebook_ran(repository):
    write_notebook(repository / "notebooks/00_first.ipynb", RUNS)
    assert run(only=["00"]) == ["00_first"]
    models = [
        resources.runs("nano") / name / "model.txt" for name in ("by_the_notebook", "by_another_terminal")
    ]
    assert all(model.exists() for model in models)

    # The notebook is outdated, and its own run goes.
    write_notebook(repository / "notebooks/00_first.ipynb", WRITE)
    assert run(only=["00"]) == ["00_first"]
    assert not models[0].exists()
    assert models[1].read_text() == "hours of work"
    assert resources.STARTED_BY not in os.environ


TRAINING = """
from monkeylib import resources
from monkeylib.runs import RunFolder

with RunFolder.open(resources.runs(profile) / "model", "training", {"training": {"seed": SEED}}) as folder:
    folder.start()
    folder.own("model.txt").write_text("hours of work")
    folder.finish()
"""


@pytest.mark.parametrize("seed, is_left", [(0, False), (7, True)])
def test_training_of_another_seed_in_a_folder_of_an_earlier_version_stays(seed, is_left, repository):
    """Of the version in which all seeds had one folder."""
    source = TRAINING.replace("SEED", str(seed))
    write_notebook(repository / "notebooks/00_first.ipynb", source)
    run_series("smoke", seed=0, series=SERIES[:1], log=lambda line: None)

    folder = resources.runs("smoke") / "model"
    outputs = [path.relative_to(resources.outputs()).as_posix() for path in folder.iterdir()]
    assert "data/runs/smoke/model/model.txt" in outputs
    NotebookRun(SERIES[0], "smoke", 0)._remove(outputs)
    assert (folder / "model.txt").exists() == is_left


def test_changed_files_of_an_earlier_run_stay(repository, without_kernel):
    run(only=["00"])
    text = resources.runs("nano") / "text.txt"
    text.write_text("changed by hand")
    NotebookRun(SERIES[0], "nano", 0)._remove(["data/runs/nano/text.txt"])
    assert text.read_text() == "changed by hand"


def test_folder_of_an_earlier_version_is_adopted(repository, without_kernel):
    run(only=["00"])
    folder = resources.runs("nano") / "notebooks"
    (folder / "run.json").unlink()
    (folder / ".ipynb_checkpoints").mkdir()
    record = json.loads((folder / "00_first.run.json").read_text())
    record["outputs"] = list(record["outputs"])  # without the states of the files
    (folder / "00_first.run.json").write_text(json.dumps(record))

    assert run(only=["00"]) == [], "up to date as before"
    assert run(only=["01"]) == ["01_independent"]
    assert {"00_first.ipynb", "00_first.run.json"} <= set(read_manifest(folder).files)


def test_damaged_run_record_is_named(repository, without_kernel):
    run(only=["00"])
    record = resources.runs("nano") / "notebooks" / "00_first.run.json"
    record.write_text(record.read_text()[:100])
    with pytest.raises(ValueError, match="00_first.run.json is damaged or not the record"):
        run(only=["00"])


def test_executed_notebooks_go_back_in_committed_form(repository):
    sources = {path: notebooks.read(path) for path in sorted((repository / "notebooks").iterdir())}
    with unpublished_results("nano", 0):
        with pytest.raises(ValueError, match="00_first is out of date"):
            publishing.publish(SERIES)
        run()
        assert publishing.publish(SERIES) == list(sources)

    for path, source in sources.items():
        updated = notebooks.read(path)
        assert [cell.source for cell in updated.cells] == [cell.source for cell in source.cells]
        assert [cell.execution_count for _, cell in notebooks.code_cells(updated)] == [1, 2]
        assert notebooks.normalise(updated) == updated
        assert "papermill" not in path.read_text()

    assert run() == [], "updated outputs don't count as changed code"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("seed = 0", "must set profile"),
        ('profile = "nano"\nseed = 0\ntwice = seed * 2', "name = literal.*twice = seed"),
    ],
)
def test_parameters_cell_that_cannot_be_set_raises(repository, cell, message):
    write_notebook(repository / "notebooks/00_first.ipynb", parameters=cell)
    with pytest.raises(ValueError, match=message):
        run()


def test_unknown_name_raises(repository):
    with pytest.raises(ValueError, match="begins with '09'.*00_first, 01_independent"):
        run(only=["09"])


def test_missing_notebook_raises(repository):
    (repository / "notebooks/00_first.ipynb").unlink()
    with pytest.raises(FileNotFoundError, match="notebooks/00_first.ipynb doesn't exist"):
        run()


def test_report_shows_scores_and_folders(repository):
    score = {"model": "Monkey", "split": "nano-fine", "metric": "anls", "value": 0.5, "low": 0.4, "high": 0.6}
    tables.write_table([score], "main", "smoke")
    tables.write_table([{"step": 1, "loss": 0.25}], "curves", "smoke")

    output = io.StringIO()
    series.print_report("smoke", Console(file=output, width=100))
    report = output.getvalue()

    assert "data/results/smoke/main.csv" in report
    assert "50.0 (40.0–60.0)" in report
    assert "curves.csv" not in report, "curves are not scores: figures show them"
    assert "All tables: " in report and "data/results/smoke/" in report
    assert "Figures: " in report and "data/runs/smoke/figures/" in report

    with unpublished_results("smoke", 7):
        output = io.StringIO()
        series.print_report("smoke", Console(file=output, width=100))
    of_seed = output.getvalue()
    assert "50.0" not in of_seed
    for folder in (
        "data/results/smoke-seed-7/",
        "runs/smoke-seed-7/figures/",
        "runs/smoke-seed-7/notebooks/",
    ):
        assert folder in of_seed


def test_notebooks_need_only_earlier_ones():
    names = [notebook.name for notebook in series.SERIES]
    assert names == sorted(names)
    for position, notebook in enumerate(series.SERIES):
        assert set(notebook.needs) <= set(names[:position])
