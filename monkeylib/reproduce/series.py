"""Run the series of notebooks in order, resuming where the last run stopped.

Each notebook leaves a run record beside its executed copy in data/runs/<profile>/notebooks/: what it depended
on (its code, its parameters, the library code that it reaches, the locked versions, the shipped files it
reads, the runs of the notebooks that it builds on) and which files it wrote. While the record is up to date,
the notebook isn't run again.
"""

import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import papermill
from nbclient.exceptions import DeadKernelError
from rich.console import Console

from monkeylib import resources, tables
from monkeylib.digests import data_digest, file_digest
from monkeylib.reproduce import notebooks
from monkeylib.reproduce.code_digests import code_digests

_BASE, _SAMPLES = "data/models/nano-base", "data/samples"
_INTERRUPTED = "its last run was interrupted"


@dataclass(frozen=True)
class Notebook:
    """A notebook of the series, the earlier ones whose results it reads, and the shipped files it reads."""

    name: str
    needs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()


SERIES = (
    Notebook("00_setup_and_sizing"),
    Notebook("01_tiling", inputs=(_SAMPLES,)),
    Notebook("02_lora_encoder", inputs=(_BASE,)),
    Notebook("03_resampler", inputs=(_BASE, _SAMPLES)),
    Notebook(
        "04_multilevel_captions",
        # Experts are found by name, so no import statement leads to their modules.
        inputs=(_SAMPLES, "data/assets.toml", "data/results/scenes", "monkeylib/captions/experts"),
    ),
    Notebook("05_finetuning", inputs=(_BASE, _SAMPLES, "monkeylib/data/mixtures")),
    Notebook("06_evaluation", needs=("05_finetuning",), inputs=(_BASE,)),
    Notebook("07_ablations", needs=("05_finetuning", "06_evaluation"), inputs=(_BASE,)),
    Notebook(
        "08_visualization",
        needs=("05_finetuning", "06_evaluation", "07_ablations"),
        inputs=(_BASE, _SAMPLES),
    ),
    Notebook("A1_official_weights", inputs=("tests/goldens", "tests/data", _SAMPLES)),
)


class NotebookFailed(RuntimeError):
    """A notebook of the series stopped with an error; the message says which, where and why."""


def run_series(
    profile: str = resources.COMMITTED_PROFILE,
    seed: int = 0,
    series: Sequence[Notebook] = SERIES,
    only: str = "",
    force: bool = False,
    log: Callable[[str], None] = print,
) -> list[str]:
    """Run those notebooks of the series that are out of date, in order.

    Args:
        profile: the notebooks' parameter `profile`.
        seed: the notebooks' parameter `seed`.
        series: the notebooks.
        only: prefix of the names of the notebooks to consider.
        force: also run notebooks that are up to date.
        log: receives a line before and after each notebook.

    Returns:
        Names of the notebooks that ran.

    Raises:
        NotebookFailed: a cell raised an error, or the kernel died; later notebooks aren't run.
        FileNotFoundError: a notebook of the series is missing.
        ValueError: no notebook's name begins with `only`, or a notebook's parameters cell isn't right.
    """
    selected = [notebook for notebook in series if notebook.name.startswith(only)]
    if not selected:
        names = ", ".join(notebook.name for notebook in series)
        raise ValueError(f"No notebook's name begins with {only!r}: the series is {names}.")

    executed = []
    for notebook in selected:
        run = NotebookRun(notebook, profile, seed)

        reason = "--force" if force else run.why_outdated()
        if reason is None:
            log(f"{notebook.name}: unchanged since its last run")
            continue

        log(f"{notebook.name}: running ({reason})")
        seconds = run.execute(resume=reason == _INTERRUPTED)
        log(f"{notebook.name}: finished in {seconds:.0f} s")
        executed.append(notebook.name)

    return executed


def update_notebooks(series: Sequence[Notebook] = SERIES) -> list[Path]:
    """Write the executed notebooks of the committed profile back into notebooks/, in their committed form.

    Raises:
        ValueError: a notebook is out of date; then none is written.
    """
    runs = [NotebookRun(notebook, resources.COMMITTED_PROFILE, 0) for notebook in series]

    for run in runs:
        reason = run.why_outdated()
        if reason is not None:
            raise ValueError(f"{run.notebook.name} is out of date ({reason}): call `make reproduce` first.")

    for run in runs:
        notebooks.write(notebooks.normalise(notebooks.read(run.executed)), run.source)
    return [run.source for run in runs]


def print_report(profile: str, console: Console) -> None:
    """Print the profile's tables of scores, and where its tables, figures and executed notebooks are."""
    results = resources.results(profile)
    for file in sorted(results.glob("*.csv")):
        rows = tables.read_csv(file)
        scores = tables.pivot_scores(rows)
        if scores is not rows:  # a table of scores
            tables.print_table(scores, resources.display_path(file), console)

    folders = {
        "All tables": results,
        "Figures": resources.figures(profile),
        "Executed notebooks": resources.runs(profile) / "notebooks",
    }
    for title, folder in folders.items():
        console.print(f"{title}: {resources.display_path(folder)}/", highlight=False)


class NotebookRun:
    """One notebook under one profile and seed: whether its last run is up to date, and how to run it.

    Attributes:
        notebook: the notebook's place in the series.
        source: the committed file.
        executed: the executed copy in data/runs/<profile>/notebooks/.
        parameters: those that differ from the notebook's defaults.
    """

    def __init__(self, notebook: Notebook, profile: str, seed: int) -> None:
        self.notebook = notebook
        self.profile = profile
        self.source = resources.notebooks() / f"{notebook.name}.ipynb"
        self.folder = resources.runs(profile) / "notebooks"
        self.executed = self.folder / self.source.name
        self.document = notebooks.read(self.source)

        parameters = {"profile": profile, "seed": seed}
        defaults = notebooks.parameters(self.document)
        missing = sorted(parameters.keys() - defaults.keys())
        if missing:
            raise ValueError(f"The parameters cell of {notebook.name} must set {' and '.join(missing)}.")

        # A value equal to its default isn't passed on: papermill would add a cell that repeats it.
        self.parameters = {name: value for name, value in parameters.items() if defaults[name] != value}

    def why_outdated(self) -> str | None:
        """Return in a few words why the notebook has to run; None if its last run is up to date."""
        record = self._read_record(self.notebook.name)
        if not record:
            return "first run"

        # A dependency may also have been added or removed since.
        current, recorded = self.dependencies(), record["dependencies"]
        changed = [
            name
            for name in sorted(current.keys() | recorded.keys())
            if current.get(name) != recorded.get(name)
        ]
        # Name one; the others are only counted.
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            return f"{changed[0]}{more} changed"

        if not record["ended"]:
            return _INTERRUPTED

        outputs = [self.executed, *(resources.outputs() / name for name in record["outputs"])]
        for output in outputs:
            if not output.exists():
                return f"{resources.display_path(output)} is missing"

        return None

    def dependencies(self) -> dict[str, str]:
        """Return everything that the notebook's results depend on, each with its digest."""
        cells = [cell.source for _, cell in notebooks.code_cells(self.document)]
        digests = {"its code": data_digest(cells), "its parameters": data_digest(self.parameters)}

        digests |= code_digests(notebooks.python(self.document))

        inputs = (resources.REPOSITORY / name for name in ("requirements.lock", *self.notebook.inputs))
        for file in _files(inputs):
            digests[resources.recorded_path(file)] = file_digest(file)

        for name in self.notebook.needs:
            digests[f"the run of {name}"] = self._read_record(name).get("run", "none")

        return digests

    def execute(self, resume: bool) -> float:
        """Run the notebook and write its run record; return the seconds that it took.

        Args:
            resume: keep what an interrupted run of the same code has left in data/runs, and resume from it.
        """
        earlier_outputs = self._read_record(self.notebook.name).get("outputs", [])
        if not resume:
            self._remove(earlier_outputs)

        record = {
            "dependencies": self.dependencies(),
            "run": uuid.uuid4().hex,
            "ended": False,
            "outputs": earlier_outputs,
        }
        # Written before the run, so that a killed one can be recognised.
        self._write_record(record)

        before = self._file_states()
        start = time.monotonic()
        try:
            self._execute_cells()
            record["ended"] = True
        finally:
            after = self._file_states()
            # What this run has written; a resumed run also keeps what the first part wrote.
            outputs = {name for name, state in after.items() if before.get(name) != state}
            if resume:
                outputs |= after.keys() & set(earlier_outputs)
            record["outputs"] = sorted(outputs)
            self._write_record(record)

        return time.monotonic() - start

    def _execute_cells(self) -> None:
        # The kernel of this environment, not one of the same name in the user's home.
        os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
        self.folder.mkdir(parents=True, exist_ok=True)

        # In a log file a bar would only be noise.
        progress_bar = {"desc": self.notebook.name, "unit": "cell"} if sys.stderr.isatty() else False
        try:
            papermill.execute_notebook(
                self.source,
                self.executed,
                parameters=self.parameters,
                kernel_name="python3",
                cwd=resources.notebooks(),
                progress_bar=progress_bar,
                extra_arguments=["--log-level=ERROR"],  # without the warning that local traffic is plain text
            )
        except papermill.PapermillExecutionError as error:
            problem = f"stopped in cell [{error.exec_count}] with {error.ename}: {error.evalue}"
            raise self._failure(problem) from error
        except DeadKernelError as error:
            raise self._failure("lost its kernel, probably for lack of memory") from error

    def _failure(self, problem: str) -> NotebookFailed:
        sentence = " ".join(f"Notebook {self.notebook.name} {problem}".split())  # on one line
        return NotebookFailed(f"{sentence} (executed so far: {resources.display_path(self.executed)})")

    # The run record

    def _record_path(self, name: str) -> Path:
        return self.folder / f"{name}.run.json"

    def _read_record(self, name: str) -> dict[str, Any]:
        path = self._record_path(name)
        if not path.exists():
            return {}
        return json.loads(path.read_text(encoding="utf-8"))

    def _write_record(self, record: dict[str, Any]) -> None:
        with resources.atomic_write(self._record_path(self.notebook.name)) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    # The files of a run

    def _remove(self, outputs: Sequence[str]) -> None:
        """Remove the files of an outdated run in data/runs, so that nothing is resumed from them.

        Results and figures stay until they are written again.
        """
        runs, figures = resources.runs(self.profile), resources.figures(self.profile)

        for path in (resources.outputs() / name for name in outputs):
            if not path.is_relative_to(runs) or path.is_relative_to(figures):
                continue

            path.unlink(missing_ok=True)
            # Folders that are now empty go too, the innermost first.
            for parent in path.relative_to(runs).parents[:-1]:
                folder = runs / parent
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def _file_states(self) -> dict[str, tuple[int, int]]:
        """Return size and modification time of every file that the profile's notebooks have written."""
        folders = (
            resources.runs(self.profile),
            resources.results(self.profile),
            resources.figures(self.profile),
        )

        states = {}
        for file in _files(folders):
            if file.parent != self.folder:  # not the executed notebooks and their records
                name = file.relative_to(resources.outputs()).as_posix()
                state = file.stat()
                states[name] = (state.st_size, state.st_mtime_ns)

        return states


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files among the paths, and those in the folders among them."""
    for path in paths:
        candidates = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in candidates if file.is_file())
