"""From predictions on disk to scores with their intervals, as often as wanted."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from monkeylib import resources
from monkeylib.evaluation.benchmarks import BENCHMARKS, Benchmark
from monkeylib.evaluation.examples import Prediction, read_predictions
from monkeylib.evaluation.metrics import registry
from monkeylib.evaluation.statistics import Interval, bootstrap_totals, mean
from monkeylib.tables import Row, Value

ALL = "all"

Predictions = Path | str | Sequence[Prediction]


@dataclass(frozen=True)
class Score:
    """A metric over a corpus with its 95 % bootstrap interval over `n` examples."""

    metric: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class ScoreRow:
    """A line of a result table: the score of one model on one split, or on one `group` of it."""

    model: str
    split: str
    group: str
    metric: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class _Measured:
    """What a metric's score over a corpus, or over a part of it, is made of."""

    metric: registry.Metric
    table: np.ndarray  # [examples, columns]
    images: list[str]
    strata: list[str] | None

    def part(self, chosen: Sequence[int]) -> "_Measured":
        """Those examples alone."""
        strata = None if self.strata is None else [self.strata[row] for row in chosen]
        return _Measured(self.metric, self.table[chosen], [self.images[row] for row in chosen], strata)

    def interval(self, seed: int, other: np.ndarray | None = None) -> Interval:
        """The score, or how far it is above that of another run, whose table is `other`."""
        return bootstrap_totals(
            self.table,
            self.metric.totals.combine if self.metric.totals else mean,
            other=other,
            clusters=self.images,
            strata=self.strata,
            seed=seed,
        )


def _measure(rows: Sequence[Prediction], name: str) -> _Measured:
    metric = registry.get(name)
    predictions, answers = [row.prediction for row in rows], [row.answers for row in rows]
    metas, images = [row.meta for row in rows], [row.image for row in rows]
    if metric.totals is None:
        scores = metric.scores(predictions, answers, metas)
        return _Measured(metric, np.stack([scores, np.ones_like(scores)], axis=1), images, None)
    stratum = metric.totals.stratum
    table = metric.totals.table(predictions, answers, metas, images)
    return _Measured(metric, table, images, stratum and [str(meta[stratum]) for meta in metas])


def scores_by_id(predictions: Predictions, metric: str) -> dict[str, float]:
    """The metric of every example: their mean is the corpus' score, but for F1 and MME."""
    rows = _rows(predictions)
    values = registry.get(metric).scores(
        [row.prediction for row in rows], [row.answers for row in rows], [row.meta for row in rows]
    )
    return dict(zip((row.id for row in rows), values.tolist(), strict=True))


def score(predictions: Predictions, metric: str, *, seed: int = 0) -> Score:
    """Score predictions; the interval draws images, since the questions of an image aren't independent.

    Args:
        predictions: a predictions file, or what `read_predictions` gave.
        metric: a name of `metrics.METRICS`.
        seed: of the bootstrap.
    """
    return Score(metric, *_measure(_rows(predictions), metric).interval(seed))


def compare(first: Predictions, second: Predictions, metric: str, *, seed: int = 0) -> Interval:
    """How far `first` is above `second` on the same examples; they differ where the interval leaves 0 out.

    Raises:
        ValueError: the runs don't hold the same examples.
    """
    ours, theirs = ({row.id: row for row in _rows(run)} for run in (first, second))
    if ours.keys() != theirs.keys():
        odd = sorted(ours.keys() ^ theirs.keys())
        raise ValueError(
            "Two runs can only be compared on the same examples: "
            f"{len(odd)} ids are in one alone, such as {odd[0]!r}."
        )
    ids = sorted(ours)
    measured = _measure([ours[id] for id in ids], metric)
    return measured.interval(seed, _measure([theirs[id] for id in ids], metric).table)


def summarise(
    runs: Mapping[tuple[str, str], Predictions],
    metrics_of: Mapping[str, Sequence[str]] | None = None,
    *,
    by: str | None = None,
    seed: int = 0,
) -> list[ScoreRow]:
    """Rows of a result table, in the order of the runs.

    Args:
        runs: predictions of each (model, split).
        metrics_of: names of the metrics of each split; by default a split is a benchmark, with its metrics.
        by: also score every group of examples with the same value of this entry of `meta` ("family").
        seed: of the bootstrap.

    Raises:
        ValueError: a split without metrics.
    """
    if metrics_of is None:
        metrics_of = {name: entry.metrics for name, entry in BENCHMARKS.items()}
    rows = []
    for (model, split), predictions in runs.items():
        if split not in metrics_of:
            raise ValueError(
                f"No metrics are given for the split {split!r}: expected {', '.join(metrics_of)}."
            )
        everything = _rows(predictions)
        # CIDEr weighs words by their rarity in the whole split, of which a group is only a part.
        measured = {metric: _measure(everything, metric) for metric in metrics_of[split]}
        for group, members in _groups(everything, by).items():
            for metric in metrics_of[split]:
                interval = measured[metric].part(members).interval(seed)
                rows.append(ScoreRow(model, split, group, metric, *interval))
    return rows


def write_table(rows: Sequence[ScoreRow], path: Path | str) -> Path:
    """Write rows as CSV, in one move."""
    path = Path(path)
    with resources.atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(ScoreRow.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    return path


def _rows(predictions: Predictions) -> Sequence[Prediction]:
    rows = read_predictions(predictions) if isinstance(predictions, Path | str) else predictions
    if not rows:
        raise ValueError("There is nothing to score: got no predictions.")
    return rows


def _groups(rows: Sequence[Prediction], by: str | None) -> dict[str, list[int]]:
    """Numbers of the rows of every group, and of all."""
    groups = {ALL: list(range(len(rows)))}
    for number, row in enumerate(rows if by else ()):
        groups.setdefault(str(row.meta.get(by, "unknown")), []).append(number)
    return groups


SCORES = "scores.csv"
_RUN = "run.json"


def note(folder: Path, model: str) -> None:
    """Write down whose predictions a folder holds."""
    with resources.atomic_write(folder / _RUN) as temporary:
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


def score_folder(
    folder: Path, metrics: Sequence[str] = (), *, by: str | None = None, seed: int = 0
) -> list[ScoreRow]:
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
    rows = summarise({(model, name): file for name, file in files.items()}, own, by=by, seed=seed)
    write_table(rows, folder / SCORES)
    return rows


def summary(rows: Sequence[ScoreRow]) -> list[Row]:
    """One line a benchmark and metric: the score of each model with its interval, in points; the paper's
    figures stand beside the metric that they were measured with (`Benchmark.paper_metric`).

    As in papers, all is printed times 100: shares, CIDEr-D and MME's sums of shares.
    """
    lines: dict[tuple[str, str], dict[str, Value]] = {}
    for row in rows:
        if row.group == ALL:
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
        for figure in entry.reported
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
        gap = compare(ours[name], theirs[name], metric, seed=seed)
        value, low, high = (f"{100 * part:+.1f}" for part in gap[:3])
        lines.append({"benchmark": name, "metric": metric, "difference": f"{value} ({low} to {high})"})
    return lines


TABLE = "benchmarks"


def table(measured: Sequence[ScoreRow]) -> list[dict[str, Value]]:
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
        if row["group"] == ALL and row["metric"] == BENCHMARKS[name].metrics[0]:
            found.setdefault(name, {})[f"{row['model']} (measured)"] = _points(row)
    names = [name for name, entry in BENCHMARKS.items() if entry.reported and not name.startswith("released-")]
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
        released = entry.card.test.released if entry.card else None
        line["as released"] = _title(released.metric) if released else None
        lines.append({**line, **{column: values.get(column) for column in columns}})
    return lines


def _title(metric: str) -> str:
    return registry.get(metric).title.removesuffix(" as released")


def _points(row: ScoreRow) -> str:
    value, low, high = (f"{100 * float(row[key] or 0):.1f}" for key in ("value", "low", "high"))
    return f"{value} ({low}–{high})"
