"""Run the series of notebooks in order, resuming where the last run stopped.

Each notebook leaves a run record beside its executed copy in data/runs/<profile>/notebooks/ (of another seed
than 0, in data/runs/<profile>-seed-<seed>/notebooks/): what it depended
on (its code, its parameters, the library code that it reaches, the locked versions, the shipped files it
reads, the runs of the notebooks that it builds on) and which files it wrote. While the record is up to date,
the notebook isn't run again. The folder is a `RunFolder`: one process uses it at a time, and what else lies
there is never replaced.
"""

import contextlib
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

from monkeylib import resources, runs, tables
from monkeylib.digests import data_digest, file_digest
from monkeylib.reproduce import notebooks
from monkeylib.reproduce.code_digests import code_digests
from monkeylib.runs import RunFolder

_BASE, _MONKEY = (f"data/models/{name}" for name in (resources.SHIPPED_BASE, resources.SHIPPED_MONKEY))
_SAMPLES = "data/samples"
# The published cells of the grid of experiments, and the baseline that stands beside them.
_GRID = ("data/results/nano/experiments.csv", "data/results/nano/synthetic_answers.csv")
_INTERRUPTED = "its last run was interrupted"

_KIND = "series"
_RECORD_ENDING = ".run.json"
_RECORD_FIELDS = {"dependencies", "run", "ended", "outputs"}


@dataclass(frozen=True)
class Notebook:
    """A notebook of the series, the earlier ones whose results it reads, the shipped files it reads, and what
    of the paper it is about."""

    name: str
    needs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    paper: str = ""


SERIES = (
    Notebook("00_start_here", inputs=(_BASE, _MONKEY, _SAMPLES), paper="section 3"),
    Notebook("01_tiling", inputs=(_SAMPLES, _MONKEY), paper="section 3.1, input resolution"),
    Notebook("02_lora_encoder", inputs=(_BASE, _MONKEY, *_GRID), paper="section 3.1, LoRA"),
    Notebook("03_resampler", inputs=(_BASE, _SAMPLES, *_GRID), paper="section 3.1, resampler"),
    Notebook(
        "04_multilevel_captions",
        # Experts are found by name, so no import statement leads to their modules.
        inputs=(
            _SAMPLES,
            "data/assets.toml",
            "data/results/scenes",
            "data/results/photographs",
            "data/results/nano/label_records.jsonl",
            "monkeylib/captions/experts",
            *_GRID,
        ),
        paper="section 3.2, multi-level descriptions",
    ),
    Notebook(
        "05_finetuning",
        inputs=(_BASE, _MONKEY, _SAMPLES, "monkeylib/data/mixtures"),
        paper="section 3.3, multi-task training",
    ),
    Notebook(
        "06_evaluation",
        needs=("05_finetuning",),
        inputs=(_BASE, _MONKEY, *_GRID),
        paper="section 4.2, results",
    ),
    Notebook(
        "07_ablations", needs=("02_lora_encoder",), inputs=(_BASE, *_GRID), paper="section 4.3, ablations"
    ),
    Notebook(
        "08_visualization",
        needs=("05_finetuning", "06_evaluation"),
        inputs=(_BASE, _MONKEY, _SAMPLES),
        paper="section 4.4, visualization",
    ),
    Notebook("A1_official_weights", inputs=("tests/goldens", "tests/data", _SAMPLES)),
    Notebook(
        "A2_scaling_out",
        inputs=("benchmarks/results/ray_workers.csv", "cluster/one_node.sbatch"),
        paper="section 4.1, implementation details",
    ),
    # Experts are found by name, so no import statement leads to their modules.
    Notebook("A3_your_own_documents", inputs=(_BASE, _MONKEY, "monkeylib/captions/experts")),
    Notebook(
        "A4_your_model_more_pixels",
        inputs=(
            _BASE,
            "data/models/nano-llava",
            "data/results/nano/raised_llava",
            "data/results/nano/raised_llava.csv",
            "data/results/nano/raised_llava_answers.csv",
            *_GRID,
        ),
    ),
)


class NotebookFailed(RuntimeError):
    """A notebook of the series stopped with an error; the message says which, where and why."""


def run_series(
    profile: str = resources.COMMITTED_PROFILE,
    seed: int = 0,
    series: Sequence[Notebook] = SERIES,
    only: Sequence[str] = (),
    force: bool = False,
    log: Callable[[str], None] = print,
) -> list[str]:
    """Run those notebooks of the series that are out of date, in order.

    Results and figures lie as `unpublished_results` says.

    Args:
        profile: the notebooks' parameter `profile`.
        seed: the notebooks' parameter `seed`.
        series: the notebooks.
        only: beginnings of the names of the notebooks to consider; by default all.
        force: also run notebooks that are up to date.
        log: receives a line before and after each notebook.

    Returns:
        Names of the notebooks that ran.

    Raises:
        NotebookFailed: a cell raised an error, or the kernel died; later notebooks aren't run.
        FileNotFoundError: a notebook of the series is missing.
        FileExistsError: a file that the series has not written is in the way of one that it writes.
        BlockingIOError: another process runs the series under this profile and seed.
        ValueError: no notebook's name begins with one of `only`, a notebook's parameters cell isn't right, or
            a run record is damaged.
    """
    for beginning in only:
        if not any(notebook.name.startswith(beginning) for notebook in series):
            names = ", ".join(notebook.name for notebook in series)
            raise ValueError(f"No notebook's name begins with {beginning!r}: the series is {names}.")
    selected = [notebook for notebook in series if notebook.name.startswith(tuple(only) or "")]

    folder = _folder(profile, seed)
    executed = []
    with (
        unpublished_results(profile, seed),
        RunFolder.open(folder, _KIND, {}, adopt=_files_of_earlier_version(folder)) as run_folder,
    ):
        for notebook in selected:
            run = NotebookRun(notebook, profile, seed)

            reason = "--force" if force else run.why_outdated()
            if reason is None:
                log(f"{notebook.name}: unchanged since its last run")
                continue

            # All of them at once: a file in the way is reported before the first notebook runs.
            if not executed:
                run_folder.start()
                run_folder.own_all(name for other in selected for name in _file_names(other.name))

            log(f"{notebook.name}: running ({reason})")
            seconds = run.execute(resume=reason == _INTERRUPTED)
            log(f"{notebook.name}: finished in {seconds:.0f} s")
            executed.append(notebook.name)

        if executed:
            run_folder.finish()
    return executed


def _folder(profile: str, seed: int) -> Path:
    """Return the folder of the executed notebooks of a profile and a seed, and of their run records."""
    return resources.runs(profile, seed) / "notebooks"


def _file_names(notebook: str) -> tuple[str, str]:
    """Return the names of a notebook's executed copy and of its run record."""
    return f"{notebook}.ipynb", f"{notebook}{_RECORD_ENDING}"


def _files_of_earlier_version(folder: Path) -> list[str]:
    """Return the names of the run records, and of their notebooks, in a folder that has no manifest."""
    if (folder / runs.MANIFEST).exists():
        return []

    names = []
    for file in folder.glob(f"*{_RECORD_ENDING}"):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and record.keys() >= _RECORD_FIELDS:
            # A run that was killed at once has left no notebook.
            notebook = file.name.removesuffix(_RECORD_ENDING)
            names += [name for name in _file_names(notebook) if (folder / name).exists()]
    return names


@contextlib.contextmanager
def unpublished_results(profile: str, seed: int) -> Iterator[None]:
    """Have this process, and the kernels that it starts, write the results and figures of a seed, and those
    of the committed profile into data/reproduced/.

    The latter not where monkeylib is installed: there a run writes into the working folder.
    """
    names = {resources.SEED: str(seed)}
    if profile == resources.COMMITTED_PROFILE and not resources.is_installed():
        names[resources.REPRODUCES] = f"{profile}-seed-{seed}"

    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def print_report(profile: str, console: Console) -> None:
    """Print the profile's tables of scores, and where its tables, figures and executed notebooks are.

    All of them are those of the process's seed (`resources.seed`).
    """
    results = resources.results(profile)
    for file in sorted(results.glob("*.csv")):
        rows = tables.read_csv(file)
        scores = tables.pivot_scores(rows)
        if scores is not rows:  # a table of scores
            tables.print_table(scores, resources.display_path(file), console)

    folders = {
        "All tables": results,
        "Figures": resources.figures(profile),
        "Executed notebooks": _folder(profile, resources.seed()),
    }
    for title, folder in folders.items():
        console.print(f"{title}: {resources.display_path(folder)}/", highlight=False, soft_wrap=True)


class NotebookRun:
    """One notebook under one profile and seed: whether its last run is up to date, and how to run it.

    Attributes:
        notebook: the notebook's place in the series.
        source: the committed file.
        executed: the executed copy in the `notebooks` folder of the profile's and seed's runs.
        runs: the folder of these runs.
        parameters: those that differ from the notebook's defaults.
    """

    def __init__(self, notebook: Notebook, profile: str, seed: int) -> None:
        self.notebook = notebook
        self.profile = profile
        self.seed = seed
        self.source = resources.notebooks() / f"{notebook.name}.ipynb"
        self.runs = resources.runs(profile, seed)
        self.folder = _folder(profile, seed)
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

        for output in [self.executed, *self.outputs()]:
            if not output.exists():
                return f"{resources.display_path(output)} is missing"

        return None

    def outputs(self) -> list[Path]:
        """Return the files that the last run has written; none without one."""
        return [
            resources.outputs() / name for name in self._read_record(self.notebook.name).get("outputs", [])
        ]

    def dependencies(self) -> dict[str, str]:
        """Return everything that the notebook's results depend on, each with its digest."""
        # Without the cell that installs the library: it changes with the version alone.
        code = notebooks.code_cells(self.document)
        cells = [cell.source for _, cell in code if cell.id != notebooks.BOOTSTRAP]
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
        earlier = self._read_record(self.notebook.name)
        earlier_outputs = earlier.get("outputs", {})
        if not resume:
            self._remove(earlier_outputs)

        record = {
            "dependencies": self.dependencies(),
            "run": uuid.uuid4().hex,
            # What the first part of an interrupted run has started is this run's, too.
            "starts_as": (earlier.get("starts_as") if resume else None) or uuid.uuid4().hex,
            "ended": False,
            "outputs": earlier_outputs,
        }
        # Written before the run, so that a killed one can be recognised.
        self._write_record(record)

        before = self._file_states()
        start = time.monotonic()
        try:
            # For the kernel, and what it starts.
            os.environ[resources.STARTED_BY] = record["starts_as"]
            self._execute_cells()
            record["ended"] = True
        finally:
            del os.environ[resources.STARTED_BY]
            after = self._without_runs_of_others(self._file_states(), record["starts_as"])
            # What this run has written; a resumed run also keeps what the first part wrote.
            outputs = {name: state for name, state in after.items() if before.get(name) != state}
            if resume:
                outputs = {name: earlier_outputs[name] for name in earlier_outputs if name in after} | outputs
            record["outputs"] = dict(sorted(outputs.items()))
            self._write_record(record)

        return time.monotonic() - start

    def _execute_cells(self) -> None:
        # The kernel of this environment, not one of the same name in the user's home.
        os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
        # Kernels inherit it: executed notebooks are the same whether a terminal watches them or not.
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        self.folder.mkdir(parents=True, exist_ok=True)

        # In a log file a bar would only be noise.
        progress_bar = {"desc": self.notebook.name, "unit": "cell"} if sys.stderr.isatty() else False
        try:
            papermill.execute_notebook(
                self.source,
                self.executed,
                parameters=self.parameters,
                kernel_name="python3",
                # Where an installed package puts its outputs.
                cwd=resources.outputs() if resources.is_installed() else resources.notebooks(),
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
        return self.folder / f"{name}{_RECORD_ENDING}"

    def _read_record(self, name: str) -> dict[str, Any]:
        """Return the run record of a notebook, empty if there is none.

        Raises:
            ValueError: it is damaged.
        """
        path = self._record_path(name)
        if not path.exists():
            return {}

        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            record = None
        if not isinstance(record, dict) or not record.keys() >= _RECORD_FIELDS:
            raise ValueError(
                f"{resources.display_path(path)} is damaged or not the record of a notebook's run: "
                "move it away"
            )

        # Earlier versions noted names alone.
        if isinstance(record["outputs"], list):
            record["outputs"] = dict.fromkeys(record["outputs"])
        return record

    def _write_record(self, record: dict[str, Any]) -> None:
        with resources.atomic_write(self._record_path(self.notebook.name)) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    # The files of a run

    def _remove(self, outputs: Iterable[str]) -> None:
        """Remove the files of an outdated run in data/runs, so that nothing is resumed from them.

        Only files go that are as a notebook of the series has left them. Training and the like write their
        files into run folders: these go as a whole, without what somebody else has put there. The training of
        another seed, which an earlier version has left here, stays.
        Results and figures stay until they are written again.
        """
        from monkeylib.training.fingerprint import seed_of_run

        root = self.runs
        current = self._file_states()
        recorded = self._recorded_states()

        unchanged = set()
        for name in outputs:
            path = resources.outputs() / name
            # `current` holds normal names below the folders of the profile alone, whatever a record says.
            is_below_runs = name in current and path.is_relative_to(root)
            if is_below_runs and not path.is_relative_to(resources.figures(self.profile)):
                if current[name] in recorded[name]:
                    unchanged.add(path)

        # Whose files are whose is decided before the first one goes.
        run_folders = {path: _run_folder(path, root) for path in unchanged}
        for folder in {folder for folder in run_folders.values() if folder is not None}:
            if folder / runs.MANIFEST in unchanged and seed_of_run(folder) in (None, self.seed):
                runs.clear(folder)

        for path, run_folder in run_folders.items():
            if run_folder is None:
                path.unlink(missing_ok=True)
            # Folders that are now empty go too, the innermost first.
            for parent in path.relative_to(root).parents[:-1]:
                with contextlib.suppress(OSError):  # not empty, or gone
                    (root / parent).rmdir()

    def _recorded_states(self) -> dict[str, list[list[int] | None]]:
        """Return in which states the notebooks of the profile have left each file."""
        states: dict[str, list[list[int] | None]] = {}
        for file in self.folder.glob(f"*{_RECORD_ENDING}"):
            record = self._read_record(file.name.removesuffix(_RECORD_ENDING))
            for name, state in record["outputs"].items():
                states.setdefault(name, []).append(state)
        return states

    def _without_runs_of_others(self, states: dict[str, list[int]], starts_as: str) -> dict[str, list[int]]:
        """Leave out the files of runs that something else has started, such as a command in a terminal.

        They may have come or changed while the notebook ran, but they are not its own.
        """
        root = self.runs
        is_own: dict[Path | None, bool] = {None: True}  # files outside of run folders are

        own = {}
        for name, state in states.items():
            folder = _run_folder(resources.outputs() / name, root)
            if folder not in is_own:
                is_own[folder] = folder is not None and _is_started_by(folder, starts_as)
            if is_own[folder]:
                own[name] = state
        return own

    def _file_states(self) -> dict[str, list[int]]:
        """Return size and modification time of every file that the profile's notebooks have written.

        Cells of the grid of experiments are no notebook's: `monkeylib ablations` may write them meanwhile,
        for days, and each cell knows by itself whether it is up to date.
        """
        grid = resources.grid_runs(self.profile)
        folders = (
            self.runs,
            resources.results(self.profile),
            resources.figures(self.profile),
        )

        states = {}
        for file in _files(folders):
            # Not the executed notebooks and their records.
            if file.parent != self.folder and grid not in file.parents:
                name = file.relative_to(resources.outputs()).as_posix()
                state = file.stat()
                states[name] = [state.st_size, state.st_mtime_ns]

        return states


def _is_started_by(folder: Path, starts_as: str) -> bool:
    """Return whether a run folder's manifest says that this notebook has started its run."""
    try:
        manifest = runs.read_manifest(folder)
    except (OSError, ValueError):  # not ours to mend
        return False
    return manifest is not None and manifest.started_by == starts_as


def _run_folder(file: Path, root: Path) -> Path | None:
    """Return the folder of the run, below a root, in which a file lies; None if it is in none."""
    folders = (folder for folder in file.parents if root in folder.parents)
    return next((folder for folder in folders if (folder / runs.MANIFEST).exists()), None)


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files among the paths, and those in the folders among them, but for what Python compiles."""
    for path in paths:
        candidates = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in candidates if file.is_file() and file.parent.name != "__pycache__")
