"""Folders of predictions, one file a benchmark: what `monkeylib evaluate` leaves, and `score` reads again."""

import json
from collections.abc import Sequence
from pathlib import Path

from monkeylib import paths
from monkeylib.evaluation import scoring
from monkeylib.evaluation.benchmarks import BENCHMARKS, Benchmark
from monkeylib.tables import Row, Value

SCORES = "scores.csv"
_RUN = "run.json"


def note(folder: Path, model: str) -> None:
    """Write down whose predictions a folder holds."""
    with paths.replacing(folder / _RUN) as temporary:
        temporary.write_text(json.dumps({"model": model}, indent=1) + "\n", encoding="utf-8")


def model_of(folder: Path) -> str:
    """Whose predictions a folder holds; the folder's name where nothing says it."""
    file = folder / _RUN
    return json.loads(file.read_text(encoding="utf-8"))["model"] if file.exists() else folder.resolve().name


def predictions(folder: Path, any_name: bool = False) -> dict[str, Path]:
    """The predictions files of a folder by benchmark, in the order of the benchmarks.

    Args:
        folder: where they are.
        any_name: also files that are named after no benchmark.

    Raises:
        FileNotFoundError: the folder has none.
    """
    files = {file.stem: file for file in sorted(folder.glob("*.jsonl"))}
    known = {name: files.pop(name) for name in BENCHMARKS if name in files}
    found = known | (files if any_name else {})
    if not found:
        raise FileNotFoundError(
            f"there are no predictions in {folder}: expected files named after benchmarks, such as "
            f"{next(iter(BENCHMARKS))}.jsonl, which `monkeylib evaluate` writes"
        )
    return found


def score(
    folder: Path, metrics: Sequence[str] = (), *, by: str | None = None, seed: int = 0
) -> list[scoring.Row]:
    """Scores of a folder's predictions, also written to its scores.csv.

    Args:
        folder: where the predictions are.
        metrics: other metrics than the benchmarks' own; then files of any name are scored.
        by: also score groups with the same value of this entry of `meta`.
        seed: of the bootstrap.
    """
    files = predictions(folder, any_name=bool(metrics))
    model = model_of(folder)
    own = {name: tuple(metrics) or BENCHMARKS[name].metrics for name in files}
    rows = scoring.summarise({(model, name): file for name, file in files.items()}, own, by=by, seed=seed)
    scoring.write_table(rows, folder / SCORES)
    return rows


def summary(rows: Sequence[scoring.Row]) -> list[Row]:
    """One line a benchmark and metric: the score of each model with its interval, in points; the paper's
    figures stand beside the metric that they were measured with (`Benchmark.paper_metric`).

    As in papers, all is printed times 100: shares, CIDEr-D and MME's sums of shares.
    """
    lines: dict[tuple[str, str], dict[str, Value]] = {}
    for row in rows:
        if row.group == scoring.ALL:
            line = lines.setdefault((row.split, row.metric), {"benchmark": row.split, "metric": row.metric})
            value, low, high = (f"{100 * part:.1f}" for part in (row.value, row.low, row.high))
            line[row.model] = f"{value} ({low}–{high})"
            line["questions"] = row.n
    models = list(dict.fromkeys(row.model for row in rows))
    for (split, metric), line in lines.items():
        entry = BENCHMARKS.get(split)
        if entry is not None and metric == entry.paper_metric:
            line |= published(entry)
    columns = dict.fromkeys(column for line in lines.values() for column in line)
    ordered = ["benchmark", "metric", "questions", *models]
    ordered += [column for column in columns if column not in ordered]
    return [{column: line.get(column) for column in ordered} for line in lines.values()]


def published(entry: Benchmark) -> dict[str, str]:
    """What the paper states of a benchmark, in points of its `paper_metric`, by the column to show it in. The
    one place where other people's figures come into tables of ours.

    What isn't from a table says where it is from.
    """
    return {
        f"{figure.model} (paper)": f"{figure.value:.1f}"
        + ("" if figure.source.startswith("Table") else f" ({figure.source})")
        for figure in entry.figures
    }


def differences(first: Path, second: Path, *, seed: int = 0) -> list[Row]:
    """The mean of `first - second` on the benchmarks that both folders hold, question by question, in points:
    they differ where the interval leaves 0 out.

    Raises:
        ValueError: they share no benchmark, or answered other questions.
    """
    ours, theirs = predictions(first), predictions(second)
    if not (common := [name for name in ours if name in theirs]):
        raise ValueError(f"{first} and {second} hold no benchmark in common: evaluate both on the same ones")
    lines = []
    for name in common:
        metric = BENCHMARKS[name].metrics[0]
        gap = scoring.compare(ours[name], theirs[name], metric, seed=seed)
        value, low, high = (f"{100 * part:+.1f}" for part in gap[:3])
        lines.append({"benchmark": name, "metric": metric, "difference": f"{value} ({low} to {high})"})
    return lines
