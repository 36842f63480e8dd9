"""The paper's figures beside measured ones: one table of all benchmarks, from results on disk."""

from collections.abc import Mapping, Sequence

from monkeylib.evaluation import metrics, scoring
from monkeylib.evaluation.benchmarks import BENCHMARKS
from monkeylib.evaluation.folders import published
from monkeylib.tables import Row, Value

TABLE = "benchmarks"


def table(measured: Sequence[Row]) -> list[dict[str, Value]]:
    """The paper's 18 benchmarks with its figures, then what was measured on others, each in its own columns.

    A row is a benchmark, the metric that it is judged by here, and the one that the release scores it by, if
    it has code for it: the paper's figures may be of that one. `Monkey (paper)` and `Qwen-VL (paper)` hold
    what the paper states, with where it is from if not one of its tables; `NAME (measured)` holds what a
    model named so scored here, with its 95 % interval. All is in points: times 100, as papers print.

    Args:
        measured: a score table as `scoring.write_table` writes it.

    Raises:
        ValueError: it names a benchmark that isn't there.
    """
    found: dict[str, dict[str, Value]] = {}
    for row in measured:
        name = str(row["split"])
        if name not in BENCHMARKS:
            raise ValueError(f"The scores name a benchmark {name!r} that isn't there: score it again.")
        if row["group"] == scoring.ALL and row["metric"] == BENCHMARKS[name].metrics[0]:
            found.setdefault(name, {})[f"{row['model']} (measured)"] = _points(row)
    names = [name for name, entry in BENCHMARKS.items() if entry.figures and not name.startswith("released-")]
    names += [name for name in found if name not in names]
    columns = [
        "Qwen-VL (paper)",
        "Monkey (paper)",
        *dict.fromkeys(c for line in found.values() for c in line),
    ]
    lines = []
    for name in names:
        entry = BENCHMARKS[name]
        values: Mapping[str, Value] = {**published(entry), **found.get(name, {})}
        line = {"group": entry.kind, "benchmark": entry.title, "metric": _title(entry.metrics[0])}
        released = entry.entry.released if entry.entry else None
        line["as released"] = _title(released.metric) if released else None
        lines.append({**line, **{column: values.get(column) for column in columns}})
    return lines


def _title(metric: str) -> str:
    return metrics.get(metric).title.removesuffix(" as released")


def _points(row: Row) -> str:
    value, low, high = (f"{100 * float(row[key] or 0):.1f}" for key in ("value", "low", "high"))
    return f"{value} ({low}–{high})"
