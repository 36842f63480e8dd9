"""Run the series of notebooks in order, going on where the last run stopped.

Each notebook leaves a stamp beside its executed copy in data/runs/<profile>/notebooks/: what it depended on
(its code, its parameters, the library code that it reaches, the locked versions, the shipped files it reads,
the runs of the notebooks that it builds on) and which files it wrote. While the stamp holds, the notebook
isn't run again.
"""

import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import papermill
from nbclient.exceptions import DeadKernelError
from rich.console import Console

from monkeylib import digests, resources, tables
from monkeylib.reproduce import notebooks, provenance

_BASE, _SAMPLES = "data/models/nano-base", "data/samples"
_INTERRUPTED = "its last run didn't end"


@dataclass(frozen=True)
class Chapter:
    """A notebook of the series, the earlier ones whose results it reads, and the shipped files it reads."""

    name: str
    needs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()


SERIES = (
    Chapter("00_setup_and_sizing"),
    Chapter("01_tiling", inputs=(_SAMPLES,)),
    Chapter("02_lora_encoder", inputs=(_BASE,)),
    Chapter("03_resampler", inputs=(_BASE, _SAMPLES)),
    Chapter(
        "04_multilevel_captions",
        # Experts are found by name, so no import statement leads to their modules.
        inputs=(_SAMPLES, "data/assets.toml", "data/results/scenes", "monkeylib/captions/experts"),
    ),
    Chapter("05_finetuning", inputs=(_BASE, _SAMPLES, "monkeylib/data/mixtures")),
    Chapter("06_evaluation", needs=("05_finetuning",), inputs=(_BASE,)),
    Chapter("07_ablations", needs=("05_finetuning", "06_evaluation"), inputs=(_BASE,)),
    Chapter(
        "08_visualization",
        needs=("05_finetuning", "06_evaluation", "07_ablations"),
        inputs=(_BASE, _SAMPLES),
    ),
    Chapter("A1_official_weights", inputs=("tests/goldens", "tests/data", _SAMPLES)),
)


class NotebookFailed(RuntimeError):
    """A notebook of the series stopped with an error; the message says which, where and why."""


def run(
    profile: str = resources.COMMITTED_PROFILE,
    seed: int = 0,
    series: Sequence[Chapter] = SERIES,
    only: str = "",
    force: bool = False,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Run those notebooks of the series that have to run, in order.

    Args:
        profile: the notebooks' parameter `profile`.
        seed: the notebooks' parameter `seed`.
        series: the notebooks.
        only: beginning of the name of the notebooks to look at.
        force: run also what hasn't changed.
        say: receives a line for each notebook.

    Returns:
        Names of the notebooks that ran.

    Raises:
        NotebookFailed: a cell raised an error, or the kernel died; later notebooks aren't run.
        FileNotFoundError: a notebook of the series is missing.
        ValueError: no notebook's name begins with `only`, or a notebook's parameters cell isn't right.
    """
    chosen = [chapter for chapter in series if chapter.name.startswith(only)]
    if not chosen:
        names = ", ".join(chapter.name for chapter in series)
        raise ValueError(f"No notebook's name begins with {only!r}: the series is {names}.")
    ran = []
    for chapter in chosen:
        job = _Job(chapter, profile, seed)
        reason = "asked for" if force else job.why_run()
        if reason is None:
            say(f"{chapter.name}: unchanged since its last run")
            continue
        say(f"{chapter.name}: runs ({reason})")
        say(f"{chapter.name}: done in {job.run(resuming=reason == _INTERRUPTED):.0f} s")
        ran.append(chapter.name)
    return ran


def update_notebooks(series: Sequence[Chapter] = SERIES) -> list[Path]:
    """Write the executed notebooks of the committed profile back into notebooks/, in their committed form.

    Raises:
        ValueError: a notebook hasn't run since it changed; then none is written.
    """
    jobs = [_Job(chapter, resources.COMMITTED_PROFILE, 0) for chapter in series]
    for job in jobs:
        if (reason := job.why_run()) is not None:
            raise ValueError(f"{job.chapter.name} has to run first ({reason}): call `make reproduce`.")
    for job in jobs:
        notebooks.write(notebooks.normalise(notebooks.read(job.executed)), job.source)
    return [job.source for job in jobs]


def report(profile: str, console: Console) -> None:
    """Print the profile's tables of scores, and say where all its tables, figures and executed notebooks
    are."""
    for file in sorted(resources.results(profile).glob("*.csv")):
        rows = tables.read_csv(file)
        if (scores := tables.pivot_scores(rows)) is not rows:
            tables.print_table(scores, resources.display_path(file), console)
    console.print(f"All tables: {resources.display_path(resources.results(profile))}/", highlight=False)
    console.print(f"Figures: {resources.display_path(resources.figures(profile))}/", highlight=False)
    console.print(
        f"Executed notebooks: {resources.display_path(resources.runs(profile))}/notebooks/", highlight=False
    )


class _Job:
    """One notebook under one profile and seed."""

    def __init__(self, chapter: Chapter, profile: str, seed: int) -> None:
        self.chapter, self.profile = chapter, profile
        self.source = resources.notebooks() / f"{chapter.name}.ipynb"
        self.folder = resources.runs(profile) / "notebooks"
        self.executed = self.folder / self.source.name
        self.notebook = notebooks.read(self.source)
        defaults = notebooks.parameters(self.notebook)
        wanted = {"profile": profile, "seed": seed}
        if missing := sorted(wanted.keys() - defaults.keys()):
            raise ValueError(f"The parameters cell of {chapter.name} must set {' and '.join(missing)}.")
        # What equals its default isn't passed: papermill would add a cell to say it again.
        self.parameters = {name: value for name, value in wanted.items() if defaults[name] != value}

    def why_run(self) -> str | None:
        """In a few words, why the notebook has to run; None where its stamp still holds."""
        stamp = self._stamp(self.chapter.name)
        if not stamp:
            return "first run"
        now, then = self.dependencies(), stamp["dependencies"]
        changed = [name for name in sorted(now.keys() | then.keys()) if now.get(name) != then.get(name)]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            return f"{changed[0]}{more} changed"
        if not stamp["ended"]:
            return _INTERRUPTED
        written = [self.executed, *(resources.outputs() / name for name in stamp["outputs"])]
        missing = [file for file in written if not file.exists()]
        return f"{resources.display_path(missing[0])} is missing" if missing else None

    def dependencies(self) -> dict[str, str]:
        """Everything that the notebook's results depend on, each with its digest."""
        cells = [cell.source for _, cell in notebooks.code_cells(self.notebook)]
        shipped = _files(resources.REPOSITORY / name for name in ("requirements.lock", *self.chapter.inputs))
        return {
            "its code": digests.data_digest(cells),
            "its parameters": digests.data_digest(self.parameters),
            **provenance.code_digests(notebooks.python(self.notebook)),
            **{resources.display_path(file): digests.file_digest(file) for file in shipped},
            **{f"the run of {name}": self._stamp(name).get("run", "none") for name in self.chapter.needs},
        }

    def run(self, resuming: bool) -> float:
        """Run the notebook and leave its stamp; returns the seconds that it took.

        Args:
            resuming: keep what an earlier run of the same code has left in data/runs, to go on from it.
        """
        earlier = self._stamp(self.chapter.name).get("outputs", [])
        if not resuming:
            self._remove(earlier)
        stamp = {
            "dependencies": self.dependencies(),
            "run": uuid.uuid4().hex,
            "ended": False,
            "outputs": earlier,
        }
        self._leave(stamp)
        before = self._written()
        start = time.monotonic()
        try:
            self._execute()
            stamp["ended"] = True
        finally:
            after = self._written()
            changed = {name for name, state in after.items() if before.get(name) != state}
            stamp["outputs"] = sorted(changed | (after.keys() & earlier if resuming else set()))
            self._leave(stamp)
        return time.monotonic() - start

    def _execute(self) -> None:
        # The kernel of this environment, not one of the same name in the user's home.
        os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
        self.folder.mkdir(parents=True, exist_ok=True)
        bar = {"desc": self.chapter.name, "unit": "cell"} if sys.stderr.isatty() else False
        try:
            papermill.execute_notebook(
                self.source,
                self.executed,
                parameters=self.parameters,
                kernel_name="python3",
                cwd=resources.notebooks(),
                progress_bar=bar,
                extra_arguments=["--log-level=ERROR"],  # not the warning that local traffic is in plain text
            )
        except papermill.PapermillExecutionError as error:
            problem = f"stopped in cell [{error.exec_count}] with {error.ename}: {error.evalue}"
            raise self._failed(problem) from error
        except DeadKernelError as error:
            raise self._failed("lost its kernel, probably for lack of memory") from error

    def _failed(self, problem: str) -> NotebookFailed:
        sentence = " ".join(f"Notebook {self.chapter.name} {problem}".split())
        return NotebookFailed(f"{sentence} (as far as it came: {resources.display_path(self.executed)})")

    def _stamp_path(self, name: str) -> Path:
        return self.folder / f"{name}.stamp.json"

    def _stamp(self, name: str) -> dict:
        path = self._stamp_path(name)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def _leave(self, stamp: Mapping) -> None:
        with resources.atomic_write(self._stamp_path(self.chapter.name)) as temporary:
            temporary.write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")

    def _remove(self, outputs: Sequence[str]) -> None:
        """Remove what an outdated run left in data/runs, so that nothing is taken up from it.

        Results and figures stay until they are written anew.
        """
        runs = resources.runs(self.profile)
        for path in (resources.outputs() / name for name in outputs):
            if path.is_relative_to(runs) and not path.is_relative_to(resources.figures(self.profile)):
                path.unlink(missing_ok=True)
                for folder in path.relative_to(runs).parents[:-1]:
                    if (runs / folder).is_dir() and not any((runs / folder).iterdir()):
                        (runs / folder).rmdir()

    def _written(self) -> dict[str, tuple[int, int]]:
        """Size and time of every file that the profile's notebooks have written so far."""
        folders = (
            resources.runs(self.profile),
            resources.results(self.profile),
            resources.figures(self.profile),
        )
        states = {file: file.stat() for file in _files(folders) if file.parent != self.folder}
        return {
            file.relative_to(resources.outputs()).as_posix(): (state.st_size, state.st_mtime_ns)
            for file, state in states.items()
        }


def _files(places: Iterator[Path] | Sequence[Path]) -> Iterator[Path]:
    """The files among `places` and in the folders among them."""
    for place in places:
        found = sorted(place.rglob("*")) if place.is_dir() else [place]
        yield from (path for path in found if path.is_file() and path.parent.name != "__pycache__")
