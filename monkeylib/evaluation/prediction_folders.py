"""Folders of predictions, one file for each benchmark: their names, their metrics, and their scores."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from monkeylib import resources
from monkeylib.evaluation.benchmarks import BENCHMARKS
from monkeylib.evaluation.examples import Prediction
from monkeylib.evaluation.foreign_predictions import read_any_predictions
from monkeylib.evaluation.metrics import registry
from monkeylib.evaluation.own_benchmarks import read_questions
from monkeylib.evaluation.results import (
    COUNT_COLUMNS,
    Predictions,
    ScoreRow,
    score_runs,
    write_table,
)
from monkeylib.progress import say
from monkeylib.runs import read_manifest

SCORES_FILE = "scores.csv"
QUESTION_FILES = "question_files"  # in the record of a run: the files of one's own questions, by name

_LABEL_LENGTH = 12  # characters of a digest in the name of a run


def read_model_name(folder: str | Path) -> str:
    """Return the name of the model whose predictions a folder holds, by default the folder's name."""
    folder = resources.to_path(folder)
    return str(_read_notes(folder).get("model", folder.resolve().name))


def _read_notes(folder: Path, report: bool = False) -> dict[str, Any]:
    """Return what `monkeylib evaluate` has recorded about a folder of predictions; empty without a record.

    Args:
        folder: the folder.
        report: tell the user of a `run.json` that is no record.
    """
    try:
        manifest = read_manifest(folder)
    except ValueError as error:
        # Predictions can be scored without it, as those of other programs are.
        if report:
            say(f"{error}; the predictions in the folder are scored without it")
        return {}
    return manifest.notes if manifest else {}


def metrics_of_benchmark(folder: Path, name: str) -> tuple[str, ...]:
    """Return the metrics that the predictions of a benchmark are scored by, the main one first.

    They are those that the run in the folder has recorded, else the benchmark's. None for a name that is no
    benchmark.
    """
    recorded = tuple(_recorded_benchmarks(folder).get(name, {}).get("metrics", ()))
    if recorded and all(metric in registry.METRICS for metric in recorded):
        return recorded
    return BENCHMARKS[name].metrics if name in BENCHMARKS else ()


def _recorded_benchmarks(folder: Path) -> dict[str, Any]:
    recorded = _read_notes(folder).get("benchmarks")
    return recorded if isinstance(recorded, dict) else {}


def run_labels(folders: Sequence[Path]) -> list[str]:
    """Return a name for the run in each folder: that of its model, and what tells runs of one model apart.

    What tells them apart is the folder, and the prompt and the digest of the weights where they differ.
    """
    notes = [_read_notes(folder, report=True) for folder in folders]
    names = [read_model_name(folder) for folder in folders]

    labels = []
    for folder, name, own_notes in zip(folders, names, notes, strict=True):
        namesakes = [index for index, other in enumerate(names) if other == name]
        if len(namesakes) == 1:
            labels.append(name)
            continue

        # The shortest end of the path that no namesake shares.
        details = [_shortest_end(folder, [folders[index] for index in namesakes])]
        for title, field in (("prompt", "prompt"), ("weights", "weights")):
            values = [str(notes[index].get(field, "")) for index in namesakes]
            if len(set(values)) > 1 and own_notes.get(field):
                details.append(f"{title} {str(own_notes[field])[:_LABEL_LENGTH]}")
        labels.append(f"{name} ({', '.join(details)})")

    return labels


def _shortest_end(folder: Path, folders: Sequence[Path]) -> str:
    """Return the last parts of a folder's path, as many as tell it apart from the others."""
    parts = folder.resolve().parts
    others = [other.resolve().parts for other in folders if other.resolve() != folder.resolve()]
    for length in range(1, len(parts)):
        if all(other[-length:] != parts[-length:] for other in others):
            break
    return "/".join(parts[-length:])


def prediction_files(folder: str | Path, any_name: bool = False) -> dict[str, Path]:
    """Return the predictions files of a folder by benchmark, in the order of the benchmarks.

    Args:
        folder: the folder.
        any_name: also return files whose names are no benchmarks; those of benchmarks of one's own, which the
            folder has a record of, are among the others in any case.

    Raises:
        FileNotFoundError: the folder has none.
    """
    folder = resources.to_path(folder)
    # The files of benchmarks are taken out, so that only other names remain.
    others = {file.stem: file for file in sorted(folder.glob("*.jsonl"))}
    files = {name: others.pop(name) for name in BENCHMARKS if name in others}
    recorded = _recorded_benchmarks(folder)
    files |= {name: file for name, file in others.items() if any_name or name in recorded}

    if not files:
        raise FileNotFoundError(
            f"there are no predictions in {folder}: expected files named after benchmarks, such as "
            f"{next(iter(BENCHMARKS))}.jsonl, which `monkeylib evaluate` writes"
        )

    return files


def score_folder(
    folder: str | Path,
    metrics: Sequence[str] = (),
    *,
    by: str | None = None,
    seed: int = 0,
    ids: Mapping[str, Collection[str]] | None = None,
) -> list[ScoreRow]:
    """Score the predictions of a folder and write the table to its scores.csv.

    Files whose questions have no accepted answers, as these aren't published, are left out, and so are
    predictions for questions that one's own file has no longer.

    Args:
        folder: folder of predictions.
        metrics: metrics in place of the benchmarks'; then files of any name are scored.
        by: also score groups of examples with the same value of this entry of `meta`.
        seed: seed of the bootstrap, which scores that are no mean of shares have.
        ids: examples to be scored, by benchmark; by default, and for other benchmarks, all in the file.

    Raises:
        FileNotFoundError: there are no predictions.
        FileExistsError: scores.csv isn't a score table.
        ValueError: no question has an accepted answer, or all of one's own have been removed.
    """
    folder = resources.to_path(folder)
    files = prediction_files(folder, any_name=bool(metrics))
    require_score_table(folder / SCORES_FILE)
    model = read_model_name(folder)

    runs: dict[tuple[str, str], Predictions] = {}
    for name, file in files.items():
        rows = read_any_predictions(file)
        if ids is not None and name in ids:
            selected = set(ids[name])
            rows = [row for row in rows if row.id in selected]
        else:
            rows = without_removed_questions(folder, name, rows, report=True)
        if not is_unanswerable(rows):
            runs[model, name] = rows

    if not runs:
        raise ValueError(
            f"nothing in {resources.display_path(folder)} can be scored: the answers of {', '.join(files)} "
            "aren't published"
        )

    metrics_of = {name: tuple(metrics) or metrics_of_benchmark(folder, name) for _, name in runs}
    rows_of_table = score_runs(runs, metrics_of, by=by, seed=seed)
    write_table(rows_of_table, folder / SCORES_FILE, answer_counts=True)
    return rows_of_table


def without_removed_questions(
    folder: Path, name: str, rows: Sequence[Prediction], report: bool = False
) -> list[Prediction]:
    """Return the predictions whose questions one's own file still has; all where it is gone, or of others.

    Args:
        folder: folder of the predictions, whose record names the file.
        name: name of the benchmark.
        rows: its predictions.
        report: tell the user how many are left out.

    Raises:
        ValueError: the file has none of the questions any more.
    """
    files = _read_notes(folder).get(QUESTION_FILES)
    file = Path(files[name]) if isinstance(files, dict) and name in files else None
    if file is None or not file.exists():
        return list(rows)

    # Without ids of their own, questions are numbered: then a text tells that another one is meant.
    questions = read_questions(file, _recorded_benchmarks(folder).get(name, {}).get("prompt", ""))
    remaining = [row for row in rows if questions.get(row.id) == row.question]
    removed = [row.id for row in rows if questions.get(row.id) != row.question]
    if rows and not remaining:
        raise ValueError(
            f"{resources.display_path(file)} has none of the {len(rows)} questions any more that "
            f"{resources.display_path(folder)} holds predictions for: evaluate the model on it again"
        )
    if removed and report:
        say(
            f"{name}: {len(removed)} of {len(rows)} predictions are left out, as "
            f"{resources.display_path(file)} has their questions no longer, such as {removed[0]}"
        )
    return remaining


def is_unanswerable(rows: Sequence[Prediction]) -> bool:
    """Return whether no prediction has an accepted answer, as those of the split aren't published."""
    return bool(rows) and not any(row.answers for row in rows)


def has_scores(folder: str | Path, any_name: bool = False) -> bool:
    """Return whether `score_folder` finds a benchmark with accepted answers."""
    folder = resources.to_path(folder)
    files = prediction_files(folder, any_name).values()
    return not all(is_unanswerable(read_any_predictions(file)) for file in files)


def require_score_table(file: Path) -> None:
    """Check that a file is missing or a score table, which may be replaced.

    Raises:
        FileExistsError: it is something else.
    """
    header = ",".join(field.name for field in fields(ScoreRow) if field.name not in COUNT_COLUMNS)
    if not os.path.lexists(file):
        return
    if file.is_file() and not file.is_symlink():
        with file.open("rb") as stream:
            if stream.readline().decode("utf-8", "replace").startswith(header):
                return

    raise FileExistsError(
        f"{resources.display_path(file)} isn't a score table of monkeylib and won't be replaced: move it away"
    )
