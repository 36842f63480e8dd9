"""Results of a run of the series: compared with those of the repository, and published there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import nbformat

from monkeylib import resources, tables
from monkeylib.reproduce import figures, notebooks
from monkeylib.reproduce.series import SERIES, Notebook, NotebookRun

# --- comparison


def compare_with_published(profile: str, seed: int, series: Sequence[Notebook] = SERIES) -> list[str]:
    """Return in sentences how the tables of a run differ from those of the repository.

    Tables of notebooks that are out of date are left out.
    """
    own = resources.reproduced()
    if own is None:
        return []

    runs = [NotebookRun(notebook, profile, seed) for notebook in series]
    files = {file for run in runs if run.why_outdated() is None for file in run.outputs()}
    same, sentences = 0, []
    for file in sorted(files):
        if file.suffix != ".csv" or not file.is_relative_to(own):
            continue
        difference = _difference(file, resources.REPOSITORY / file.relative_to(own))
        same += not difference
        sentences += [f"{file.name} {difference}"] if difference else []

    total = same + len(sentences)
    return [f"{same} of {total} tables are those of the repository", *sentences] if total else []


def _difference(file: Path, committed: Path) -> str:
    """Say how a table differs from another one: in how many fields, and by how much at most; empty if not."""
    if not committed.exists():
        return "is not in the repository"

    rows, others = tables.read_csv(file), tables.read_csv(committed)
    if len(rows) != len(others):
        return f"has another number of rows: {len(rows)}, and in the repository {len(others)}"
    if rows and [*rows[0]] != [*others[0]]:
        return "has other columns"

    differing, largest = 0, 0.0
    for row, other in zip(rows, others, strict=True):
        for column, value in row.items():
            if value == other[column]:
                continue
            differing += 1
            largest = max(largest, _relative_difference(value, other[column]))
    if not differing:
        return ""

    fields = len(rows) * len(rows[0])
    size = "some of them not numbers" if math.isinf(largest) else f"by {largest:.1g} of their value at most"
    return f"differs in {differing} of {fields} fields, {size}"


def _relative_difference(value: tables.Value, other: tables.Value) -> float:
    """Return the difference of two numbers over the larger one, infinity for anything else."""
    for field in (value, other):
        if not isinstance(field, int | float) or math.isnan(field):
            return math.inf
    return abs(value - other) / max(abs(value), abs(other))


# --- publication


def publish(series: Sequence[Notebook] = SERIES) -> list[Path]:
    """Copy results, figures and executed notebooks of the run at hand into the repository.

    Files that are there already with these bytes are left as they are, and so are those of no notebook.

    Returns:
        The files that were written.

    Raises:
        ValueError: a notebook is out of date, or the run at hand is not that of the committed profile and
            seed 0; then nothing is written.
    """
    own = resources.reproduced()
    if own is None or own.name != f"{resources.COMMITTED_PROFILE}-seed-0":
        raise ValueError(
            f"the committed results are those of profile {resources.COMMITTED_PROFILE} and seed 0: publish a "
            "run of these"
        )

    runs = require_current(series)

    # All is read first: a damaged file leaves nothing half published.
    executed = {
        run.source: nbformat.writes(notebooks.normalise(notebooks.read(run.executed))).encode()
        for run in runs
    }
    outputs = sorted({path for run in runs for path in run.outputs() if path.is_relative_to(own)})
    committed, joined = _join_manifests(outputs)

    # A new figure is there only after the list notes it, as where it was drawn.
    folder = resources.REPOSITORY / "figures"
    written = [figures.write_manifest(folder, joined)] if joined != committed else []
    written += [
        _write(path.read_bytes(), resources.REPOSITORY / path.relative_to(own))
        for path in outputs
        if path.name != figures.MANIFEST
    ]
    written += [_write(notebook + b"\n", path) for path, notebook in executed.items()]
    return [path for path in written if path is not None]


def require_current(series: Sequence[Notebook]) -> list[NotebookRun]:
    """Return the runs of notebooks that are to be published.

    Raises:
        ValueError: one is out of date.
    """
    runs = [NotebookRun(notebook, resources.COMMITTED_PROFILE, 0) for notebook in series]
    for run in runs:
        reason = run.why_outdated()
        if reason is not None:
            raise ValueError(f"{run.notebook.name} is out of date ({reason}): call `make reproduce` first.")
    return runs


def _write(data: bytes, target: Path) -> Path | None:
    """Write a file in one move; return its path, None where it holds these bytes already."""
    if target.exists() and target.read_bytes() == data:
        return None
    with resources.atomic_write(target) as temporary:
        temporary.write_bytes(data)
    return target


def _join_manifests(outputs: Sequence[Path]) -> tuple[dict[str, dict], dict[str, dict]]:
    """Return the repository's list of figures: as it is, and with the figures that this run has drawn."""
    names = {path.name for path in outputs}
    committed = figures.read_manifest(resources.REPOSITORY / "figures")
    drawn = {
        name: entry
        for name, entry in figures.manifest(resources.COMMITTED_PROFILE).items()
        if names.issuperset(entry["files"])
    }
    return committed, dict(sorted((committed | drawn).items()))
