"""Tables of scores for readers, beside the scores that the paper reports.

All are printed times 100, as in papers: shares, CIDEr-D and MME's sums of shares.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from monkeylib import resources
from monkeylib.evaluation.benchmarks import BENCHMARKS, Benchmark
from monkeylib.evaluation.foreign_predictions import read_any_predictions
from monkeylib.evaluation.metrics import registry
from monkeylib.evaluation.prediction_folders import (
    is_unanswerable,
    metrics_of_benchmark,
    prediction_files,
    without_removed_questions,
)
from monkeylib.evaluation.results import ALL, COUNT_COLUMNS, Predictions, ScoreRow, compare
from monkeylib.tables import Row, Value

PAPER_TABLE = "benchmarks"


# Monkey and the model that it is made from, whose scores stand beside ours in every table.
COMPARED = ("Monkey", "Qwen-VL")


def reported_scores(benchmark: Benchmark, models: Collection[str] = COMPARED) -> dict[str, str]:
    """Return the scores that the paper reports, by column, in points of the benchmark's `paper_metric`.

    This is the only place where scores that weren't measured here enter the tables. A score that doesn't come
    from one of the paper's tables is marked with its origin.
    """
    scores = {}
    for reported in benchmark.reported:
        if reported.model not in models:
            continue
        origin = "" if reported.source.startswith("Table") else f" ({reported.source})"
        scores[f"{reported.model} (paper)"] = f"{reported.value:.1f}{origin}"

    return scores


def paper_models_table() -> list[Row]:
    """Return a line for each of the paper's benchmarks, with the scores that it reports of all models.

    Columns: `benchmark`, its title, and the models: those with fewer scores first, Qwen-VL and Monkey last.
    """
    reported = [
        (benchmark.title, {score.model: score.value for score in benchmark.reported})
        for name, benchmark in BENCHMARKS.items()
        if benchmark.reported and not name.startswith("released-")
    ]
    counts = Counter(model for _, scores in reported for model in scores)
    others = sorted(counts.keys() - set(COMPARED), key=lambda model: (counts[model], model))
    models = [*others, *reversed(COMPARED)]
    return [
        {"benchmark": title, **{model: scores.get(model) for model in models}} for title, scores in reported
    ]


def summary_table(rows: Sequence[ScoreRow]) -> list[Row]:
    """Return a line for each benchmark, group and metric, with each model's score and its interval in points.

    The numbers of failed, missing, empty and cut answers stand beside the scores if any is above 0. Where
    models differ in a number, it is given for each, as in "200 / 100". The paper's scores stand beside the
    metric that they were measured with (`Benchmark.paper_metric`).
    """
    # One line for all models. Without groups, all examples need no name.
    has_groups = any(row.group != ALL for row in rows)
    rows_of_line: dict[tuple[str, str, str], list[ScoreRow]] = {}
    for row in rows:
        rows_of_line.setdefault((row.split, row.group, row.metric), []).append(row)

    counts = [column for column in COUNT_COLUMNS if any(getattr(row, column) for row in rows)]
    lines: list[dict[str, Value]] = []
    for (split, group, metric), rows_of_models in rows_of_line.items():
        line: dict[str, Value] = {"benchmark": split}
        if has_groups:
            line["group"] = group
        line["metric"] = metric
        line["questions"] = _for_each_model([row.n for row in rows_of_models])
        for row in rows_of_models:
            line[row.model] = _in_points(row.value, row.low, row.high)
        for column in counts:
            line[column] = _for_each_model([getattr(row, column) for row in rows_of_models])

        # Only next to the metric that the paper used: other metrics aren't comparable.
        benchmark = BENCHMARKS.get(split)
        if benchmark is not None and metric == benchmark.paper_metric and group == ALL:
            line |= reported_scores(benchmark)
        lines.append(line)

    # The models first, then the paper's; every line has all columns.
    first_columns = ["benchmark", *(["group"] if has_groups else []), "metric", "questions"]
    columns = dict.fromkeys([*first_columns, *(row.model for row in rows), *counts])
    for line in lines:
        columns |= dict.fromkeys(line)
    return [{column: line.get(column) for column in columns} for line in lines]


def _for_each_model(numbers: Sequence[int]) -> Value:
    """Return a number that all models share, or the numbers of all of them."""
    return numbers[0] if len(set(numbers)) == 1 else " / ".join(map(str, numbers))


def answer_warnings(rows: Sequence[ScoreRow]) -> list[str]:
    """Return a sentence for each model and benchmark of which most questions failed, or have an empty
    answer or one that was cut off; `foreign_predictions.match` says how many predictions are missing.
    """
    # The counts of a benchmark are the same in the rows of all of its metrics.
    first_rows = {(row.model, row.split): row for row in reversed(rows) if row.group == ALL}

    sentences = []
    for row in reversed(first_rows.values()):
        causes = {
            "failed": "could not be answered and count as wrong: look at `error` in the predictions file",
            "empty": "have an empty answer: does the prompt suit the model?",
            "cut": "have an answer that reached the maximum length before its end: does the prompt ask for a "
            "short one?",
        }
        for column, cause in causes.items():
            number = getattr(row, column)
            if 2 * number > row.n:
                sentences.append(f"{row.model}, {row.split}: {number} of {row.n} questions {cause}")

    return sentences


def paired_differences(first: str | Path, second: str | Path, *, seed: int = 0) -> list[Row]:
    """Compare two folders on the benchmarks that both hold: the mean of `first - second` over questions.

    The differences are in points; they are significant where the interval doesn't include 0.

    Raises:
        ValueError: the folders have no benchmark in common, or other questions.
    """
    first, second = resources.to_path(first), resources.to_path(second)
    first_files = prediction_files(first)
    second_files = prediction_files(second)
    common = [
        name
        for name in first_files
        if name in second_files and not is_unanswerable(read_any_predictions(first_files[name]))
    ]
    if not common:
        raise ValueError(f"{first} and {second} hold no benchmark in common: evaluate both on the same ones")

    return [
        difference_row(
            name,
            metrics_of_benchmark(first, name)[0],
            without_removed_questions(first, name, read_any_predictions(first_files[name])),
            without_removed_questions(second, name, read_any_predictions(second_files[name])),
            seed=seed,
        )
        for name in common
    ]


def difference_row(
    benchmark: str, metric: str, first: Predictions, second: Predictions, *, seed: int = 0
) -> Row:
    """Return the line of a benchmark in a table of paired differences.

    Raises:
        ValueError: the predictions are for other questions.
    """
    difference = compare(first, second, metric, seed=seed)
    # The last field of an interval is its number of examples.
    value, low, high = (f"{100 * number:+.1f}" for number in difference[:3])
    return {"benchmark": benchmark, "metric": metric, "difference": f"{value} ({low} to {high})"}


def paper_table(score_rows: Sequence[Row]) -> list[dict[str, Value]]:
    """Return a line for each of the paper's 18 benchmarks, then for the others that were scored.

    A line has the benchmark, its main metric here, and the metric of the released code if that covers the
    benchmark: the paper's scores may be of that one. `Monkey (paper)` and `Qwen-VL (paper)` hold the scores
    that the paper reports, with their origin if that isn't a table; `NAME (measured)` holds the score of a
    model here, with its 95 % interval. All scores are in points.

    Args:
        score_rows: a score table as `write_table` writes it.

    Raises:
        ValueError: the table names a benchmark that doesn't exist.
    """
    # The main score of each model, by benchmark.
    measured: dict[str, dict[str, Value]] = {}
    for row in score_rows:
        name = str(row["split"])
        if name not in BENCHMARKS:
            raise ValueError(f"The scores name a benchmark {name!r} that isn't there: score it again.")
        if row["group"] == ALL and row["metric"] == BENCHMARKS[name].metrics[0]:
            numbers = (float(row[key] or 0) for key in ("value", "low", "high"))
            measured.setdefault(name, {})[f"{row['model']} (measured)"] = _in_points(*numbers)

    # The paper's benchmarks come first, whether or not they were scored here.
    names = dict.fromkeys(
        name
        for name, benchmark in BENCHMARKS.items()
        if benchmark.reported and not name.startswith("released-")
    )
    names |= dict.fromkeys(measured)

    # Columns in order: a dictionary serves as an ordered set.
    score_columns = dict.fromkeys(["Qwen-VL (paper)", "Monkey (paper)"])
    for scores in measured.values():
        score_columns |= dict.fromkeys(scores)

    lines: list[dict[str, Value]] = []
    for name in names:
        benchmark = BENCHMARKS[name]
        scores = {**reported_scores(benchmark), **measured.get(name, {})}
        line: dict[str, Value] = {
            "group": benchmark.kind,
            "benchmark": benchmark.title,
            "metric": _metric_title(benchmark.metrics[0]),
            "as released": _metric_title(benchmark.released_metric) if benchmark.released_metric else None,
        }
        lines.append(line | {column: scores.get(column) for column in score_columns})

    return lines


def _in_points(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def _metric_title(metric: str) -> str:
    return registry.get(metric).title.removesuffix(" as released")
