"""Paired differences between models on the same questions, and the verdicts that their intervals support."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from monkeylib.evaluation import benchmarks, results
from monkeylib.evaluation.metrics import registry
from monkeylib.tables import Row, Value

METRIC_TITLES = {name: metric.title for name, metric in registry.METRICS.items()}
NOT_SIGNIFICANT = "no significant difference"

PredictionFiles = Mapping[tuple[str, str], Path]  # by (model, split)


def main_metric(split: str) -> str:
    """Return the metric by which a split is judged."""
    return benchmarks.get(split).metrics[0]


def main_scores(rows: Sequence[Row], group: str | None = results.ALL) -> list[Row]:
    """Select the rows of a score table that hold the main metric of their split.

    Args:
        rows: a score table.
        group: the group of examples; None for all groups.
    """
    main_rows = [row for row in rows if row["metric"] == main_metric(str(row["split"]))]
    return [row for row in main_rows if group is None or row["group"] == group]


def scores_by_group(rows: Sequence[Row]) -> list[dict[str, Value]]:
    """Return a row for every split and group, with a column of main scores in points for each model."""
    lines: dict[tuple[Value, Value], dict[str, Value]] = {}
    for row in main_scores(rows, group=None):
        # The first model opens the line of a group, the others add their columns.
        key = (row["split"], row["group"])
        line = lines.setdefault(key, {"split": row["split"], "group": row["group"], "n": row["n"]})

        value, low, high = (100 * float(row[column] or 0) for column in ("value", "low", "high"))
        line[str(row["model"])] = f"{value:.1f} ({low:.1f}–{high:.1f})"

    return list(lines.values())


def paired_differences(files: PredictionFiles, model: str, others: Sequence[str]) -> list[dict[str, Value]]:
    """Compare a model with others on every split that it has predictions of.

    Both models answered the same questions, so the difference is taken question by question: their difficulty
    cancels out, and the interval is narrower than two separate ones suggest.

    Returns:
        Rows with `model`, `against`, `split`, `metric`, the `difference` of the scores (model minus the
        other), its 95 % interval from `low` to `high`, and the number `n` of questions.
    """
    # The splits that the model has predictions of, in their order.
    splits = [split for name, split in files if name == model]

    rows: list[dict[str, Value]] = []
    for other in others:
        for split in splits:
            metric = main_metric(split)
            difference = results.compare(files[model, split], files[other, split], metric)
            rows.append(
                {
                    "model": model,
                    "against": other,
                    "split": split,
                    "metric": metric,
                    "difference": difference.value,
                    "low": difference.low,
                    "high": difference.high,
                    "n": difference.n,
                }
            )

    return rows


def verdict(row: Row) -> str:
    """Return the verdict on the model of a paired difference that its interval supports.

    `better` or `worse` if the 95 % interval excludes 0, else `no significant difference`.
    """
    low = float(row["low"] or 0)
    high = float(row["high"] or 0)

    if low > 0:
        return "better"
    return "worse" if high < 0 else NOT_SIGNIFICANT


def describe_difference(row: Row, titles: Mapping[str, str] | None = None) -> str:
    """Return a row of `paired_differences` as a sentence, with the verdict that its interval supports.

    Args:
        row: the row.
        titles: names of the models for readers.
    """
    titles = titles or {}
    model = titles.get(str(row["model"]), str(row["model"]))
    other = titles.get(str(row["against"]), str(row["against"]))

    # Scores are shares; points are 100 times as large.
    points, low, high = (100 * float(row[column] or 0) for column in ("difference", "low", "high"))

    if points == 0:
        order = "level with"
    else:
        order = f"{abs(points):.1f} points {'above' if points > 0 else 'below'}"

    # The verdict comes last, after the numbers that it rests on.
    interval = f"95 % interval of the paired difference: {low:+.1f} to {high:+.1f}"
    reading = f"includes 0: {NOT_SIGNIFICANT}" if verdict(row) == NOT_SIGNIFICANT else "excludes 0"

    benchmark = benchmarks.get(str(row["split"])).title
    metric = METRIC_TITLES[str(row["metric"])]
    return f"{benchmark}, {metric}: {model} is {order} {other} ({interval}, which {reading})."
