"""Scores of predictions with their intervals, and tables of them beside the paper's scores.

Predictions are scored from their files, so that a score can be computed again, or by another metric, without
a model:

    score("run/textvqa.jsonl", "vqa_accuracy")   one metric over one file
    compare(first, second, "anls")               the difference of two runs on the same examples
    score_folder("run")                          all files of a folder, by their benchmarks' metrics
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from monkeylib import resources
from monkeylib.evaluation.benchmarks import BENCHMARKS, Benchmark
from monkeylib.evaluation.examples import Prediction, read_predictions
from monkeylib.evaluation.metrics import registry
from monkeylib.evaluation.statistics import Interval, bootstrap_corpus_score, mean
from monkeylib.tables import Row, Value, write_csv

ALL = "all"  # the group of all examples of a split
SCORES_FILE = "scores.csv"
PAPER_TABLE = "benchmarks"

_RUN_FILE = "run.json"

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
    """A row of a score table: the score of a model on a split, or on a `group` of its examples."""

    model: str
    split: str
    group: str
    metric: str
    value: float
    low: float
    high: float
    n: int


# --- scores of one run --------------------------------------------------------------------------------------


def score(predictions: Predictions, metric: str, *, seed: int = 0) -> Score:
    """Score predictions.

    The bootstrap resamples images, since the questions about an image aren't independent.

    Args:
        predictions: a predictions file, or its predictions.
        metric: a name of `metrics.registry.METRICS`.
        seed: seed of the bootstrap.

    Raises:
        ValueError: there are no predictions, or there is no such metric.
    """
    return Score(metric, *_count(_load(predictions), metric).interval(seed))


def scores_by_id(predictions: Predictions, metric: str) -> dict[str, float]:
    """Return the score of every example by its id; except for F1 and MME, their mean is the corpus score."""
    rows = _load(predictions)
    scores = registry.get(metric).scores(
        [row.prediction for row in rows], [row.answers for row in rows], [row.meta for row in rows]
    )
    return dict(zip((row.id for row in rows), scores.tolist(), strict=True))


def compare(first: Predictions, second: Predictions, metric: str, *, seed: int = 0) -> Interval:
    """Return the paired difference `first - second` of two runs on the same examples, with its 95 % interval.

    The runs differ where the interval doesn't include 0.

    Raises:
        ValueError: the runs don't hold the same examples.
    """
    first_rows = {row.id: row for row in _load(first)}
    second_rows = {row.id: row for row in _load(second)}
    if first_rows.keys() != second_rows.keys():
        # Ids of only one of the runs.
        unpaired = sorted(first_rows.keys() ^ second_rows.keys())
        raise ValueError(
            "Two runs can only be compared on the same examples: "
            f"{len(unpaired)} ids are in one alone, such as {unpaired[0]!r}."
        )

    # The same order for both, so that row i of both tables is the same example.
    ids = sorted(first_rows)
    first_counts = _count([first_rows[id] for id in ids], metric)
    second_counts = _count([second_rows[id] for id in ids], metric)
    return first_counts.interval(seed, second_counts.counts)


@dataclass(frozen=True)
class _CorpusCounts:
    """Counts from which the score of a corpus, or of a part of it, is computed.

    Attributes:
        metric: the metric.
        counts: counts of each example, to be summed, `[examples, columns]`.
        images: the image of each example.
        strata: the stratum of each example; None if the metric has none.
    """

    metric: registry.Metric
    counts: np.ndarray
    images: list[str]
    strata: list[str] | None

    def select(self, indices: Sequence[int]) -> "_CorpusCounts":
        """Return the counts of some of the examples."""
        images = [self.images[index] for index in indices]
        strata = None if self.strata is None else [self.strata[index] for index in indices]
        return _CorpusCounts(self.metric, self.counts[indices], images, strata)

    def interval(self, seed: int, other_counts: np.ndarray | None = None) -> Interval:
        """Return the score, or its difference to that of another run, with its interval."""
        corpus_score = self.metric.corpus_score
        return bootstrap_corpus_score(
            self.counts,
            # Without a corpus score, the counts are [score, 1] for each example.
            corpus_score.combine if corpus_score else mean,
            other_counts=other_counts,
            clusters=self.images,
            strata=self.strata,
            seed=seed,
        )


def _count(rows: Sequence[Prediction], name: str) -> _CorpusCounts:
    """Return the counts from which a metric's score over the predictions is computed."""
    metric = registry.get(name)
    predictions = [row.prediction for row in rows]
    answers = [row.answers for row in rows]
    metas = [row.meta for row in rows]
    images = [row.image for row in rows]

    # The mean is computed from the sums of the scores and of the examples.
    if metric.corpus_score is None:
        scores = metric.scores(predictions, answers, metas)
        return _CorpusCounts(metric, np.stack([scores, np.ones_like(scores)], axis=1), images, None)

    counts = metric.corpus_score.count(predictions, answers, metas, images)
    strata = [str(meta[metric.stratum]) for meta in metas] if metric.stratum else None
    return _CorpusCounts(metric, counts, images, strata)


def _load(predictions: Predictions) -> Sequence[Prediction]:
    rows = read_predictions(predictions) if isinstance(predictions, Path | str) else predictions
    if not rows:
        raise ValueError("There is nothing to score: got no predictions.")
    return rows


# --- score tables of many runs ------------------------------------------------------------------------------


def score_runs(
    runs: Mapping[tuple[str, str], Predictions],
    metrics_of: Mapping[str, Sequence[str]] | None = None,
    *,
    by: str | None = None,
    seed: int = 0,
) -> list[ScoreRow]:
    """Score runs and return the rows of a score table, in the order of the runs.

    Args:
        runs: predictions of each (model, split).
        metrics_of: names of the metrics of each split; by default a split is a benchmark, with its metrics.
        by: also score every group of examples with the same value of this entry of `meta` ("family").
        seed: seed of the bootstrap.

    Raises:
        ValueError: a split without metrics.
    """
    if metrics_of is None:
        metrics_of = {name: benchmark.metrics for name, benchmark in BENCHMARKS.items()}

    rows = []
    for (model, split), predictions in runs.items():
        if split not in metrics_of:
            raise ValueError(
                f"No metrics are given for the split {split!r}: expected {', '.join(metrics_of)}."
            )

        examples = _load(predictions)

        # Counted over the full split, also for its groups: CIDEr weighs words by their rarity in the split.
        counts = {metric: _count(examples, metric) for metric in metrics_of[split]}
        for group, indices in _groups(examples, by).items():
            for metric in metrics_of[split]:
                interval = counts[metric].select(indices).interval(seed)
                rows.append(ScoreRow(model, split, group, metric, *interval))

    return rows


def _groups(rows: Sequence[Prediction], by: str | None) -> dict[str, list[int]]:
    """Return the indices of the predictions in every group, and of all of them."""
    # Every example is in the group of all, and in that of its value.
    groups = {ALL: list(range(len(rows)))}
    if by is not None:
        for index, row in enumerate(rows):
            groups.setdefault(str(row.meta.get(by, "unknown")), []).append(index)

    return groups


def write_table(rows: Sequence[ScoreRow], path: Path | str) -> Path:
    """Write a score table as CSV, atomically."""
    columns = [field.name for field in fields(ScoreRow)]
    return write_csv([asdict(row) for row in rows], Path(path), columns)


# --- folders of predictions, one file for each benchmark ----------------------------------------------------


def write_model_name(folder: Path, model: str) -> None:
    """Store the name of the model whose predictions a folder holds."""
    with resources.atomic_write(folder / _RUN_FILE) as temporary:
        temporary.write_text(json.dumps({"model": model}, indent=1) + "\n", encoding="utf-8")


def read_model_name(folder: Path) -> str:
    """Return the name of the model whose predictions a folder holds, by default the folder's name."""
    file = folder / _RUN_FILE
    if not file.exists():
        return folder.resolve().name
    return json.loads(file.read_text(encoding="utf-8"))["model"]


def prediction_files(folder: Path, any_name: bool = False) -> dict[str, Path]:
    """Return the predictions files of a folder by benchmark, in the order of the benchmarks.

    Args:
        folder: the folder.
        any_name: also return files whose names are no benchmarks.

    Raises:
        FileNotFoundError: the folder has none.
    """
    # The files of benchmarks are taken out, so that only other names remain.
    others = {file.stem: file for file in sorted(folder.glob("*.jsonl"))}
    files = {name: others.pop(name) for name in BENCHMARKS if name in others}
    if any_name:
        files |= others

    if not files:
        raise FileNotFoundError(
            f"there are no predictions in {folder}: expected files named after benchmarks, such as "
            f"{next(iter(BENCHMARKS))}.jsonl, which `monkeylib evaluate` writes"
        )

    return files


def score_folder(
    folder: Path, metrics: Sequence[str] = (), *, by: str | None = None, seed: int = 0
) -> list[ScoreRow]:
    """Score the predictions of a folder and write the table to its scores.csv.

    Args:
        folder: folder of predictions.
        metrics: metrics in place of the benchmarks'; then files of any name are scored.
        by: also score groups of examples with the same value of this entry of `meta`.
        seed: seed of the bootstrap.
    """
    files = prediction_files(folder, any_name=bool(metrics))
    model = read_model_name(folder)
    runs = {(model, name): file for name, file in files.items()}
    metrics_of = {name: tuple(metrics) or BENCHMARKS[name].metrics for name in files}

    rows = score_runs(runs, metrics_of, by=by, seed=seed)
    write_table(rows, folder / SCORES_FILE)
    return rows


# --- tables for readers, beside the paper's scores ----------------------------------------------------------
# All are printed times 100, as in papers: shares, CIDEr-D and MME's sums of shares.


def reported_scores(benchmark: Benchmark) -> dict[str, str]:
    """Return the scores that the paper reports, by column, in points of the benchmark's `paper_metric`.

    This is the only place where scores that weren't measured here enter the tables. A score that doesn't come
    from one of the paper's tables is marked with its origin.
    """
    scores = {}
    for reported in benchmark.reported:
        origin = "" if reported.source.startswith("Table") else f" ({reported.source})"
        scores[f"{reported.model} (paper)"] = f"{reported.value:.1f}{origin}"

    return scores


def summary_table(rows: Sequence[ScoreRow]) -> list[Row]:
    """Return a line for each benchmark and metric, with the score of each model and its interval in points.

    The paper's scores stand beside the metric that they were measured with (`Benchmark.paper_metric`).
    """
    # One line for all models.
    lines: dict[tuple[str, str], dict[str, Value]] = {}
    for row in rows:
        if row.group != ALL:
            continue
        line = lines.setdefault((row.split, row.metric), {"benchmark": row.split, "metric": row.metric})
        line[row.model] = _in_points(row.value, row.low, row.high)
        line["questions"] = row.n

    # Only next to the metric that the paper used: other metrics aren't comparable.
    for (split, metric), line in lines.items():
        benchmark = BENCHMARKS.get(split)
        if benchmark is not None and metric == benchmark.paper_metric:
            line |= reported_scores(benchmark)

    # The models first, then the paper's; every line has all columns.
    columns = dict.fromkeys(["benchmark", "metric", "questions", *(row.model for row in rows)])
    for line in lines.values():
        columns |= dict.fromkeys(line)
    return [{column: line.get(column) for column in columns} for line in lines.values()]


def paired_differences(first: Path, second: Path, *, seed: int = 0) -> list[Row]:
    """Compare two folders on the benchmarks that both hold: the mean of `first - second` over questions.

    The differences are in points; they are significant where the interval doesn't include 0.

    Raises:
        ValueError: the folders have no benchmark in common, or other questions.
    """
    first_files = prediction_files(first)
    second_files = prediction_files(second)
    common = [name for name in first_files if name in second_files]
    if not common:
        raise ValueError(f"{first} and {second} hold no benchmark in common: evaluate both on the same ones")

    lines: list[Row] = []
    for name in common:
        metric = BENCHMARKS[name].metrics[0]
        difference = compare(first_files[name], second_files[name], metric, seed=seed)
        # The last field of an interval is its number of examples.
        value, low, high = (f"{100 * number:+.1f}" for number in difference[:3])
        lines.append({"benchmark": name, "metric": metric, "difference": f"{value} ({low} to {high})"})

    return lines


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
