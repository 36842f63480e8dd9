"""Scores of predictions with their intervals, and tables of them beside the paper's scores.

Predictions are scored from their files, so that a score can be computed again, or by another metric, without
a model:

    score_runs({("Monkey", "textvqa"): "run/textvqa.jsonl"})   a table of scores, also of groups of examples
    compare(first, second, "anls")                             the difference of two runs on the same examples
    score_folder("run")                                        all files of a folder, by their metrics
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from monkeylib import resources
from monkeylib.evaluation.benchmarks import BENCHMARKS, Benchmark
from monkeylib.evaluation.examples import Prediction
from monkeylib.evaluation.foreign_predictions import NO_PREDICTION, read_any_predictions
from monkeylib.evaluation.metrics import registry
from monkeylib.evaluation.metrics.text import Meta
from monkeylib.evaluation.own_benchmarks import read_questions
from monkeylib.evaluation.statistics import (
    Interval,
    bootstrap_interval,
    difference_interval,
    mean,
    mean_interval,
)
from monkeylib.progress import say
from monkeylib.runs import read_manifest
from monkeylib.tables import Row, Value, write_csv

ALL = "all"  # the group of all examples of a split
SCORES_FILE = "scores.csv"
QUESTION_FILES = "question_files"  # in the record of a run: the files of one's own questions, by name
PAPER_TABLE = "benchmarks"

_LABEL_LENGTH = 12  # characters of a digest in the name of a run
_MAX_GROUPS = 200

Predictions = Path | str | Sequence[Prediction]


@dataclass(frozen=True)
class ScoreRow:
    """A row of a score table: the score of a model on a split, or on a `group` of its examples.

    Attributes:
        value, low, high: the score, and its 95 % interval.
        n: number of examples.
        failed: those that could not be answered, which count as wrong; see `evaluation.predict`.
        missing: those for which a file of predictions has none, which count as wrong.
        empty: those whose answer is empty.
        cut: those whose answer reached the maximum length before its end.
    """

    model: str
    split: str
    group: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    failed: int = 0
    missing: int = 0
    empty: int = 0
    cut: int = 0


_COUNT_COLUMNS = ("failed", "missing", "empty", "cut")


# --- scores of one run --------------------------------------------------------------------------------------


def scores_by_id(predictions: Predictions, metric: str) -> dict[str, float]:
    """Return the score of every example by its id; except for F1 and MME, their mean is the corpus score."""
    rows = _load(predictions)
    ids = [row.id for row in rows]
    texts, answers, metas = zip(*((row.prediction, row.answers, row.meta) for row in rows), strict=True)

    scores = registry.get(metric).scores(texts, answers, metas)
    return dict(zip(ids, scores.tolist(), strict=True))


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

    def covers(self, indices: Sequence[int]) -> bool:
        """Return whether some of the examples count in this metric; a sum over tasks has only its tasks."""
        tasks = self.metric.corpus_score.strata if self.metric.corpus_score else ()
        return not tasks or any(self.strata[index] in tasks for index in indices)

    def select(self, indices: Sequence[int]) -> "_CorpusCounts":
        """Return the counts of some of the examples."""
        images = [self.images[index] for index in indices]
        strata = None if self.strata is None else [self.strata[index] for index in indices]
        return _CorpusCounts(self.metric, self.counts[indices], images, strata)

    def interval(self, seed: int, other_counts: np.ndarray | None = None) -> Interval:
        """Return the score, or its difference to that of another run, with its 95 % interval."""
        corpus_score = self.metric.corpus_score
        if corpus_score is None and self.metric.is_share:
            # Counts are [score, 1] for each example.
            if other_counts is None:
                return mean_interval(self.counts[:, 0], clusters=self.images)
            return difference_interval(self.counts[:, 0] - other_counts[:, 0], clusters=self.images)

        return bootstrap_interval(
            self.counts,
            corpus_score.combine if corpus_score else mean,
            other_counts=other_counts,
            clusters=self.images,
            strata=self.strata,
            maximum=self._maximum(),
            seed=seed,
        )

    def _maximum(self) -> float:
        """Return the highest score that the corpus could have."""
        corpus_score = self.metric.corpus_score
        if corpus_score is None:
            return self.metric.maximum
        if self.strata is None:
            return corpus_score.maximum
        return corpus_score.maximum * len(set(self.strata) & set(corpus_score.strata))


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
    """Return predictions, which may be those of any tool."""
    rows = read_any_predictions(Path(predictions)) if isinstance(predictions, Path | str) else predictions
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
        by: also score every group of examples with the same value of this entry of `meta` ("family"), of the
            splits that have it.
        seed: seed of the bootstrap, which scores that are no mean of shares have.

    Raises:
        ValueError: a split without metrics, or no split has the entry, or it is none to group by.
    """
    if by is not None:
        check_field(by, [row.meta for predictions in runs.values() for row in _load(predictions)])
    if metrics_of is None:
        metrics_of = {name: benchmark.metrics for name, benchmark in BENCHMARKS.items()}

    rows = []
    for (model, split), predictions in runs.items():
        if split not in metrics_of:
            raise ValueError(
                f"No metrics are given for the split {split!r}: expected {', '.join(metrics_of)}."
            )

        examples = _load(predictions)
        if unanswered := [row.id for row in examples if not row.answers]:
            raise ValueError(
                f"{len(unanswered)} of the {len(examples)} questions of {split} have no accepted answer, "
                f"such as {unanswered[0]!r}: leave them out, or give their answers"
            )

        # Counted over the full split, also for its groups: CIDEr weighs words by their rarity in the split.
        counts = {metric: _count(examples, metric) for metric in metrics_of[split]}
        for group, indices in _groups(examples, by).items():
            answer_counts = _count_answers([examples[index] for index in indices])
            for metric in metrics_of[split]:
                # MME's sum over perception tasks says nothing about a cognition task.
                if group != ALL and not counts[metric].covers(indices):
                    continue
                interval = counts[metric].select(indices).interval(seed)
                rows.append(ScoreRow(model, split, group, metric, *interval, **answer_counts))

    return rows


def _count_answers(rows: Sequence[Prediction]) -> dict[str, int]:
    """Return how many questions failed or have no prediction, an empty one, or one that was cut off."""
    missing = sum(row.error == NO_PREDICTION for row in rows)
    return {
        "failed": sum(bool(row.error) for row in rows) - missing,
        "missing": missing,
        "empty": sum(row.is_empty for row in rows),
        "cut": sum(row.is_cut for row in rows),
    }


def check_field(by: str, metas: Sequence[Meta]) -> None:
    """Check that a field of `meta` divides some of the examples into groups.

    Raises:
        ValueError: it does not.
    """
    values = [meta[by] for meta in metas if by in meta]
    if not values:
        names = dict.fromkeys(name for meta in metas for name, value in meta.items() if _is_group(value))
        choices = f"choose one of {', '.join(names)}" if names else "there is none to group by"
        raise ValueError(f"no question has a field {by!r}: {choices}")

    for value in values:
        if not _is_group(value):
            raise ValueError(
                f"questions cannot be grouped by {by!r}: expected texts or numbers, got {value!r:.60}"
            )
    num_groups = len(set(map(str, values)))
    if num_groups > _MAX_GROUPS:
        raise ValueError(
            f"questions cannot be grouped by {by!r}: it has {num_groups} values, expected at most "
            f"{_MAX_GROUPS}"
        )


def _is_group(value: Any) -> bool:
    return not isinstance(value, list | dict)


def _groups(rows: Sequence[Prediction], by: str | None) -> dict[str, list[int]]:
    """Return the indices of all predictions, and of those in each group, in the order of the names."""
    # Every example is in the group of all, and in that of its value.
    groups: dict[str, list[int]] = {}
    if any(by in row.meta for row in rows):
        for index, row in enumerate(rows):
            groups.setdefault(str(row.meta.get(by, "unknown")), []).append(index)

    return {ALL: list(range(len(rows)))} | {group: groups[group] for group in sorted(groups)}


def write_table(rows: Sequence[ScoreRow], path: Path | str, *, answer_counts: bool = False) -> Path:
    """Write a score table as CSV, atomically.

    Args:
        rows: the scores.
        path: the file.
        answer_counts: add columns for the numbers of failed, missing, empty and cut answers.
    """
    columns = [field.name for field in fields(ScoreRow)]
    if not answer_counts:
        columns = [column for column in columns if column not in _COUNT_COLUMNS]

    lines = [{column: getattr(row, column) for column in columns} for row in rows]
    return write_csv(lines, Path(path), columns)


# --- folders of predictions, one file for each benchmark ----------------------------------------------------


def read_model_name(folder: Path) -> str:
    """Return the name of the model whose predictions a folder holds, by default the folder's name."""
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


def prediction_files(folder: Path, any_name: bool = False) -> dict[str, Path]:
    """Return the predictions files of a folder by benchmark, in the order of the benchmarks.

    Args:
        folder: the folder.
        any_name: also return files whose names are no benchmarks; those of benchmarks of one's own, which the
            folder has a record of, are among the others in any case.

    Raises:
        FileNotFoundError: the folder has none.
    """
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
    folder: Path,
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
            rows = _without_removed(folder, name, rows, report=True)
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


def _without_removed(
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


def has_scores(folder: Path, any_name: bool = False) -> bool:
    """Return whether `score_folder` finds a benchmark with accepted answers."""
    files = prediction_files(folder, any_name).values()
    return not all(is_unanswerable(read_any_predictions(file)) for file in files)


def require_score_table(file: Path) -> None:
    """Check that a file is missing or a score table, which may be replaced.

    Raises:
        FileExistsError: it is something else.
    """
    header = ",".join(field.name for field in fields(ScoreRow) if field.name not in _COUNT_COLUMNS)
    if not os.path.lexists(file):
        return
    if file.is_file() and not file.is_symlink():
        with file.open("rb") as stream:
            if stream.readline().decode("utf-8", "replace").startswith(header):
                return

    raise FileExistsError(
        f"{resources.display_path(file)} isn't a score table of monkeylib and won't be replaced: move it away"
    )


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

    counts = [column for column in _COUNT_COLUMNS if any(getattr(row, column) for row in rows)]
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


def paired_differences(first: Path, second: Path, *, seed: int = 0) -> list[Row]:
    """Compare two folders on the benchmarks that both hold: the mean of `first - second` over questions.

    The differences are in points; they are significant where the interval doesn't include 0.

    Raises:
        ValueError: the folders have no benchmark in common, or other questions.
    """
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
            _without_removed(first, name, read_any_predictions(first_files[name])),
            _without_removed(second, name, read_any_predictions(second_files[name])),
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
