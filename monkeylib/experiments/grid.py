"""The grid of experiments: which cells there are, how they are run side by side, and their one table.

Each cell (`cell.py`) runs in a process of its own, with one thread or one GPU. What is finished is skipped,
and what was interrupted goes on, so the grid may be run in parts, for hours or days.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monkeylib import resources, sizing, tables
from monkeylib.errors import choose
from monkeylib.experiments import scoring
from monkeylib.experiments.cell import (
    Cell,
    folder_of,
    has_first_steps,
    read_result,
    run_cell,
    run_first_steps,
)
from monkeylib.experiments.variants import VARIANTS
from monkeylib.profiles import Profile, build
from monkeylib.progress import Progress, say
from monkeylib.tables import Row
from monkeylib.training import memory

TABLE = "experiments"  # name of the table, and of the folder of the scores by question

# Assumption of `plan`: the share of a GPU's peak that training reaches, and that peak (H100, bf16, dense).
_GPU_FLOPS = 0.4 * 989e12


def list_cells(
    variants: Iterable[str] = (), renderings: Iterable[str] = (), seeds: Iterable[int] = ()
) -> list[Cell]:
    """Return cells of the grid in the order in which they are run: each seed in turn, the variants as listed.

    Args:
        variants: names of variants; all by default.
        renderings: renderings; all of each variant by default.
        seeds: seeds, also others than those of the grid; by default each variant's own.

    Raises:
        ValueError: there is no such variant, or none of them is trained in such a rendering.
    """
    variants, seeds = list(dict.fromkeys(variants)) or list(VARIANTS), list(dict.fromkeys(seeds))
    renderings = list(renderings)
    for name in variants:
        choose("variant", name, VARIANTS)

    cells = []
    for name in variants:
        variant = VARIANTS[name]
        for rendering in variant.renderings:
            if not renderings or rendering in renderings:
                cells += [Cell(name, rendering, seed) for seed in (seeds or range(variant.seeds))]
    if not cells:
        known = sorted({rendering for name in variants for rendering in VARIANTS[name].renderings})
        raise ValueError(
            f"none of these variants is trained in the rendering {', '.join(renderings)}: give one of "
            f"{', '.join(known)}"
        )

    # Stable: within a seed, the variants keep their order.
    return sorted(cells, key=lambda cell: cell.seed)


# --- running ----------------------------------------------------------------------------------------------


@dataclass
class GridRun:
    """Outcome of a run of the grid.

    Attributes:
        finished: cells that this call has trained and scored.
        skipped: cells that were finished before.
        failed: the last lines of the log of each cell that failed.
    """

    finished: list[Cell] = field(default_factory=list)
    skipped: list[Cell] = field(default_factory=list)
    failed: dict[Cell, str] = field(default_factory=dict)


def cells_to_train(profile: Profile, cells: Iterable[Cell], committed: bool = True) -> list[Cell]:
    """Return the cells that have no result on this machine nor, if `committed`, in the committed table."""
    done = committed_fingerprints(profile) if committed else {}
    left = []
    for cell in cells:
        fingerprint = cell.fingerprint(profile)
        is_here = read_result(folder_of(profile) / cell.name, fingerprint) is not None
        if not is_here and done.get(cell) != fingerprint:
            left.append(cell)
    return left


def run_grid(
    profile: Profile,
    cells: Sequence[Cell],
    workers: int | None = None,
    committed: bool = True,
    progress: bool = True,
    until: int | None = None,
) -> GridRun:
    """Train and score cells, several side by side; those that are finished are skipped.

    Args:
        profile: the profile; its ablation says how long, and what is asked.
        cells: cells of the grid.
        workers: cells that run at once: by default one for each GPU, or for each CPU core.
        committed: skip cells whose results are committed, too.
        progress: report finished cells and the time left.
        until: train only up to this step, at which cells are scored; see `cell.run_first_steps`.

    Raises:
        signals.Interrupted: a signal has ended the run; running cells have saved their last step.
    """
    pending = cells_to_train(profile, cells, committed)
    if until is not None:
        pending = [cell for cell in pending if not has_first_steps(profile, cell, until)]
    to_train = set(pending)
    outcome = GridRun(skipped=[cell for cell in cells if cell not in to_train])

    gpus = torch.cuda.device_count()
    workers = workers or gpus or os.cpu_count() or 1
    slots: list[int] = list(range(min(workers, max(1, len(pending)))))

    with Progress("cells", enabled=progress) as bars, _Processes() as processes:
        bars.add_task("grid", len(cells), completed=len(outcome.skipped))
        waiting = list(pending)
        while waiting or processes.running:
            while waiting and slots:
                slot = slots.pop(0)
                processes.start(profile, waiting.pop(0), slot, slot % gpus if gpus else None, until)

            for cell, slot, code in processes.poll():
                slots.append(slot)
                if code == 0:
                    outcome.finished.append(cell)
                else:
                    outcome.failed[cell] = _last_lines(_log_file(profile, cell))
                    bars.print(f"{cell.name} failed: {outcome.failed[cell]}")
                bars.set_values("grid", *(running.name for running in processes.running))
                bars.advance("grid")
            time.sleep(0.2)

    return outcome


class _Processes:
    """Processes of cells; when the block is left early, they are asked to save their step and end."""

    def __init__(self) -> None:
        self.running: dict[Cell, tuple[int, subprocess.Popen[bytes]]] = {}

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for _, process in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for _, process in self.running.values():
            process.wait()

    def start(self, profile: Profile, cell: Cell, slot: int, gpu: int | None, until: int | None) -> None:
        """Start a cell's process, with a GPU or a thread of its own."""
        environment = dict(os.environ)
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = str(gpu)
        else:
            # Products of one thread are the same however many cores a machine has.
            environment["OMP_NUM_THREADS"] = "1"

        log = _log_file(profile, cell)
        log.parent.mkdir(parents=True, exist_ok=True)

        # As a file: a profile need not be one of the library's, nor be as its YAML file is by now.
        settings = log.with_name("profile.json")
        with resources.atomic_write(settings) as temporary:
            temporary.write_text(profile.model_dump_json(indent=1) + "\n", encoding="utf-8")

        command = [sys.executable, "-m", "monkeylib.experiments.grid", str(settings)]
        command += [cell.variant, cell.rendering, str(cell.seed)]
        if until is not None:
            command += ["--until", str(until)]
        # What an earlier process of this cell has written stays: it may still be running.
        with log.open("ab") as file:
            # A session of its own: Ctrl-C reaches this process alone, which then asks the others.
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        self.running[cell] = (slot, process)

    def poll(self) -> Iterator[tuple[Cell, int, int]]:
        """Yield the cells whose processes have ended, with their slots and exit codes."""
        for cell, (slot, process) in list(self.running.items()):
            code = process.poll()
            if code is not None:
                del self.running[cell]
                yield cell, slot, code


def _log_file(profile: Profile, cell: Cell) -> Path:
    return folder_of(profile) / cell.name / "log.txt"


def _last_lines(log: Path, count: int = 3) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return " / ".join(lines[-count:]) or "it ended without a word"


# --- what is planned --------------------------------------------------------------------------------------


def plan(profile: Profile, cells: Sequence[Cell], with_memory: bool = True) -> list[Row]:
    """Return a row for each variant of the cells: runs, steps, operations, and what they take on GPUs.

    A training step counts as three forward passes (one forward, two backward) over image and text, a scored
    question as one. GPU hours assume 40 % of the peak of an H100 in bf16.

    Args:
        profile: the profile.
        cells: cells of the grid.
        with_memory: count the memory of a step with one example, which takes seconds for a large model.
    """
    runs: dict[str, int] = {}
    for cell in cells:
        runs[cell.variant] = runs.get(cell.variant, 0) + 1

    rows: list[Row] = []
    for name, count in runs.items():
        changed = Cell(name, VARIANTS[name].renderings[0], 0).profile(profile)
        config = build.build_config(changed)
        flops = sum(sizing.count_flops(config, text_tokens=128).values())

        ablation, training = profile.ablation, changed.training
        # Before the first step and after the last one all questions, in between some.
        questions = 2 * sum(ablation.counts.values())
        questions += len(ablation.curve_steps) * sum(ablation.curve_counts.values())
        total = flops * (3 * training.steps * training.batch_size + questions)

        row: Row = {
            "variant": name,
            "runs": count,
            "steps": training.steps,
            "visual_tokens": sizing.count_visual_tokens(config),
            "petaflops_per_run": round(total / 1e15, 3),
            "gpu_hours": count * total / _GPU_FLOPS / 3600,
        }
        if with_memory:
            step = memory.count_step(changed, [memory.random_micro_batch(changed)])
            row["step_gb"] = round(step.peak / 1e9, 1)
        rows.append(row)
    return rows


# --- the table --------------------------------------------------------------------------------------------


def collect(profile: Profile, cells: Iterable[Cell]) -> list[Row]:
    """Return the rows of the cells that this machine has finished, one for each score.

    Columns: the cell (`variant`, `rendering`, `seed`), `step`, `condition`, `split`, `metric`, `value`, `n`;
    the costs (`visual_tokens`, `trained_parameters`, `flops` of an image, `images_per_second` in training,
    `step_bytes`); and `machine`, `date`, `commit`, `fingerprint`.
    """
    rows: list[Row] = []
    for cell in cells:
        result = read_result(folder_of(profile) / cell.name, cell.fingerprint(profile))
        if result is not None:
            rows += _rows_of_result(result)
    return rows


def _rows_of_result(result: Mapping[str, Any]) -> list[Row]:
    origin = {name: result.get(name) for name in ("machine", "date", "commit", "fingerprint")}
    return [{**result["cell"], **row, **result["costs"], **origin} for row in result["rows"]]


def collect_first_steps(profile: Profile, cells: Iterable[Cell], until: int) -> list[Row]:
    """Return the scores of cells that were trained up to a step, as `collect` does but without costs."""
    rows: list[Row] = []
    for cell in cells:
        named = {"variant": cell.variant, "rendering": cell.rendering, "seed": cell.seed}
        rows += [{**named, **row} for row in run_first_steps(profile, cell, until)]
    return rows


def train_here(profile: Profile, cells: Sequence[Cell], progress: bool = True) -> list[Row]:
    """Train cells anew for a notebook, side by side, and return their scores.

    Under the profile whose table is committed, the first steps are enough to compare curves with it: those
    up to the last step of the curve within the first quarter of the training (30 of 120 for nano). Under
    another profile, whose table is made on this machine, cells are trained to their end.

    Args:
        profile: the profile.
        cells: cells of the grid; those that have been trained before are read from disk.
        progress: report finished cells and the time left.

    Raises:
        RuntimeError: a cell failed.
    """
    early = [step for step in profile.ablation.curve_steps if 4 * step <= profile.ablation.steps]
    has_table = (
        profile.name == resources.COMMITTED_PROFILE and tables.table_path(TABLE, profile.name).exists()
    )
    until = max(early) if has_table and early else None

    outcome = run_grid(profile, cells, committed=False, progress=progress, until=until)
    if outcome.failed:
        raise RuntimeError(f"cells of the grid failed: {outcome.failed}")
    if until is None:
        return collect(profile, cells)
    return collect_first_steps(profile, cells, until)


def beside_committed(profile: Profile, rows: Iterable[Row], step: int) -> list[Row]:
    """Return scores after a step beside the committed ones of the same variants.

    Args:
        profile: the profile whose table is compared.
        rows: scores of this machine, from `collect` or `collect_first_steps`.
        step: the step.

    Returns:
        A row for each of these scores: the cell, split and metric, its `value`; of the committed runs of all
        seeds the `committed_mean`, their number and `committed_spread`, from the lowest to the highest.
    """
    path = tables.table_path(TABLE, profile.name)
    committed = tables.read_table(TABLE, profile.name) if path.exists() else []
    committed = [row for row in committed if row["step"] == step]

    beside: list[Row] = []
    for row in rows:
        if row["step"] != step:
            continue
        key = [row[column] for column in _SCORE_COLUMNS]
        values = [
            float(other["value"] or 0)
            for other in committed
            if [other[column] for column in _SCORE_COLUMNS] == key
        ]
        line: Row = {column: row[column] for column in (*_SCORE_COLUMNS, "seed", "value")}
        line["committed_runs"] = len(values)
        line["committed_mean"] = round(sum(values) / len(values), 4) if values else None
        line["committed_spread"] = f"{min(values):.4f} to {max(values):.4f}" if values else None
        beside.append(line)
    return beside


_SCORE_COLUMNS = ("variant", "rendering", "condition", "split", "metric")


def committed_fingerprints(profile: Profile) -> dict[Cell, str]:
    """Return the fingerprints of the cells of the committed table."""
    if not tables.table_path(TABLE, profile.name).exists():
        return {}
    return {_cell_of(row): str(row["fingerprint"]) for row in tables.read_table(TABLE, profile.name)}


def _cell_of(row: Row) -> Cell:
    return Cell(str(row["variant"]), str(row["rendering"]), int(row["seed"] or 0))


def publish(profile: Profile) -> list[Cell]:
    """Put the finished cells of this machine into the committed results, in place of earlier ones of theirs.

    Writes the table `experiments.csv`, a file of scores by question for each cell, and their questions.

    Returns:
        The cells that were written.
    """
    cells = [cell for cell in list_cells() if _is_finished(profile, cell)]
    rows = collect(profile, cells)

    path = tables.table_path(TABLE, profile.name)
    earlier = tables.read_table(TABLE, profile.name) if path.exists() else []
    kept = [row for row in earlier if _cell_of(row) not in set(cells)]

    # By variant, then rendering, then seed; within a cell as they came.
    order = list(VARIANTS)
    everything = sorted(
        [*kept, *rows],
        key=lambda row: (order.index(str(row["variant"])), str(row["rendering"]), int(row["seed"] or 0)),
    )
    for cell in cells:
        _publish_questions(profile, cell)
        _publish_scores(profile, cell)
    tables.write_table(everything, TABLE, profile.name)
    return cells


def _is_finished(profile: Profile, cell: Cell) -> bool:
    return read_result(folder_of(profile) / cell.name, cell.fingerprint(profile)) is not None


def scores_path(profile: Profile, cell: Cell) -> Path:
    """Return the committed file of a cell's scores by question.

    Its arrays are called `start_fine_log_likelihood`, `end_large_exact`, `permuted_general_exact` and so on;
    log-likelihoods are of half precision.
    """
    return resources.results(profile.name) / TABLE / f"{cell.name}.npz"


def questions_path(profile: Profile, cell: Cell) -> Path:
    """Return the committed table of the questions that a cell was asked, see `scoring.describe_questions`."""
    width, height = cell.profile(profile).image_size
    name = f"questions-{cell.rendering}-{width}x{height}.csv"
    return resources.results(profile.name) / TABLE / name


def _publish_questions(profile: Profile, cell: Cell) -> None:
    path = questions_path(profile, cell)
    if not path.exists():
        questions = scoring.load_questions(cell.profile(profile), profile.ablation.counts)
        tables.write_csv(scoring.describe_questions(questions), path)


def read_questions(profile: Profile, cell: Cell) -> list[Row]:
    """Return the rows of the questions that a cell was asked, in the order of its scores."""
    return tables.read_csv(resources.published(questions_path(profile, cell)))


def read_final_scores(profile: Profile, cell: Cell) -> dict[str, np.ndarray]:
    """Return a cell's committed scores by question, by the names that `scores_path` describes."""
    with np.load(resources.published(scores_path(profile, cell))) as arrays:
        return {name: arrays[name].astype(float) for name in arrays}


def _publish_scores(profile: Profile, cell: Cell) -> None:
    folder = folder_of(profile) / cell.name / "scores" / cell.fingerprint(profile)
    files = {
        "start": scoring.step_file(folder, 0),
        "end": scoring.step_file(folder, profile.ablation.steps),
        "permuted": folder / scoring.PERMUTED,
    }
    scores = {moment: scoring.read_scores(file) for moment, file in files.items() if file.exists()}
    write_final_scores(scores, scores_path(profile, cell))


def write_final_scores(scores: Mapping[str, scoring.Scores], path: Path) -> None:
    """Write scores by question as `scores_path` describes them.

    Args:
        scores: by moment.
        path: of the file.
    """
    arrays: dict[str, np.ndarray] = {}
    for moment, by_split in scores.items():
        for split, values in by_split.items():
            arrays[f"{moment}_{split}_log_likelihood"] = values.log_likelihood.astype(np.float16)
            arrays[f"{moment}_{split}_exact"] = values.exact

    path.parent.mkdir(parents=True, exist_ok=True)
    with resources.atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one cell in this process, as `run_grid` asks for it."""
    parser = argparse.ArgumentParser(description="Train and score one cell of the grid.")
    parser.add_argument("profile", type=Path, help="JSON file of the profile")
    parser.add_argument("variant")
    parser.add_argument("rendering")
    parser.add_argument("seed", type=int)
    parser.add_argument("--until", type=int, help="train only up to this step")
    options = parser.parse_args(arguments)

    torch.set_num_threads(1 if not torch.cuda.is_available() else torch.get_num_threads())
    cell = Cell(options.variant, options.rendering, options.seed)
    profile = Profile.model_validate_json(options.profile.read_bytes())
    if options.until is None:
        run_cell(profile, cell, progress=True)
        say(f"{cell.name} is finished")
    else:
        run_first_steps(profile, cell, options.until, progress=True)
        say(f"{cell.name} is trained up to step {options.until}")


if __name__ == "__main__":
    main()
