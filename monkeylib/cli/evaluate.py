"""`monkeylib evaluate` and `monkeylib score`: predictions on benchmarks, and their scores."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monkeylib import resources
from monkeylib.cli import options
from monkeylib.progress import say

if TYPE_CHECKING:
    from rich.console import Console

    from monkeylib.evaluation.benchmarks import Benchmark
    from monkeylib.evaluation.results import ScoreRow

ModelOption = Annotated[
    str,
    typer.Option(
        help="Checkpoint folder, name of a shipped model, or folder or name on a hub of any image-text model "
        "of transformers; by default the shipped nano-monkey."
    ),
]
BenchmarksOption = Annotated[
    str, typer.Option(help="Names, separated by commas. Default: all whose files exist.")
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Maximum number of questions to answer in each benchmark. Predictions that the folder has for "
        "other questions stay there.",
    ),
]
PromptOption = Annotated[
    str,
    typer.Option(
        help="Prompt in place of the benchmark's: documented, released, or the name of a prompt (`monkeylib "
        "prompts`). Questions of your own have vqa by default."
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the downloads (default: MONKEYLIB_DATA), or questions of your own: a file of JSON, "
        "JSON lines, CSV, TSV or parquet with image, question, answer or answers, and perhaps id and others; "
        "a file of any form that training reads; or the YAML of a mixture with validation records."
    ),
]
OutOption = Annotated[
    Path | None, typer.Option(help="Folder for the predictions, scores.csv and the error galleries.")
]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Questions answered at once.")]
FreshOption = Annotated[
    bool,
    typer.Option(
        "--fresh",
        help="Discard the predictions in the folder and start again, also with another model or prompt.",
    ),
]
RetryOption = Annotated[
    bool, typer.Option("--retry-failed", help="Repeat questions that could not be answered.")
]
MaxFailedOption = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        help="Share of the questions that may fail, as their image is broken; ten may in any case. A failure "
        "counts as a wrong answer.",
    ),
]
GalleryOption = Annotated[
    int,
    typer.Option(
        "--gallery", min=0, help="Wrong answers in each benchmark's error gallery; 0 writes no gallery."
    ),
]
ByOption = Annotated[
    str,
    typer.Option(
        help="Also score groups of questions with the same value of a field, such as MME's task, ChartQA's "
        "family, VQAv2's answer_type, ScienceQA's subject or EST-VQA's language."
    ),
]
PathsArgument = Annotated[
    list[Path],
    typer.Argument(
        help="Folders that `monkeylib evaluate` has written, or files of predictions that any tool has "
        "written: JSON, JSON lines, CSV, TSV or parquet."
    ),
]
BenchmarkOption = Annotated[
    str,
    typer.Option(
        "--benchmark",
        help="Benchmark whose questions and answers a file of predictions is for, if it holds no answers. "
        "Questions of your own are named by --data.",
    ),
]
TableOption = Annotated[
    Path | None, typer.Option("--out", help="CSV file for the scores of files. Folders have theirs inside.")
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="Print a line of JSON for each score, a share of 1 or less, in place of tables."
    ),
]
MetricsOption = Annotated[
    str,
    typer.Option(
        help="Metrics in place of the benchmarks', separated by commas, the main one first. Questions of "
        "your own have anls,exact_match by default, and cider_d with a prompt for captions."
    ),
]


def evaluate(
    model: ModelOption = "",
    benchmarks: BenchmarksOption = "",
    limit: LimitOption = None,
    prompt: PromptOption = "",
    data: DataOption = None,
    out: OutOption = None,
    batch_size: BatchSizeOption = 16,
    fresh: FreshOption = False,
    gallery: GalleryOption = 24,
    retry_failed: RetryOption = False,
    max_failed: MaxFailedOption = 0.1,
    by: ByOption = "",
    metrics: MetricsOption = "",
    grid: options.GridOption = "",
    device: options.Device = "",
    dtype: options.Dtype = None,
    bits: options.Bits = None,
    exact: options.Exact = None,
    json: JsonOption = False,
) -> None:
    """Evaluate a model on benchmarks, or on questions of your own (--data FILE).

    Run it again to resume with the missing predictions. Under torchrun, processes divide the questions among
    them, each on its own GPU or on the CPU.
    """
    from monkeylib.evaluation import job, prediction_folders

    selected = _select_benchmarks(benchmarks, data, prompt, _metric_names(metrics))

    path = str(options.find_model(Path(model))) if model else str(options.default_checkpoint())
    folder = resources.to_path(out) if out else _default_folder(path)

    options.hide_loading_bars()
    with options.lines_of_json_alone(json):
        result = job.run_job(
            job.EvaluationJob(
                model=path,
                model_name=_model_name(path),
                benchmarks=selected,
                folder=folder,
                prompt=prompt,
                limit=limit,
                batch_size=batch_size,
                fresh=fresh,
                retry_failed=retry_failed,
                max_failed=max_failed,
                grid=grid,
                device=device,
                dtype=dtype,
                bits=bits,
                exact=exact,
                by=by,
                skip_unusable=len(selected) > 1 and not benchmarks,
                gallery=gallery,
                progress=True,
            )
        )

    # Every process of torchrun comes here; one of them reports, also what was complete before an error.
    if result is None:
        return
    if result.ids and prediction_folders.has_scores(folder):
        # The run has recorded its metrics, also for files of earlier calls.
        _report([folder], [], by=by, ids=result.ids, json=json)
    if result.error is not None:
        raise result.error


def score(
    paths: PathsArgument,
    metrics: MetricsOption = "",
    data: DataOption = None,
    gallery: GalleryOption = 0,
    by: ByOption = "",
    benchmark: BenchmarkOption = "",
    out: TableOption = None,
    json: JsonOption = False,
) -> None:
    """Score predictions again, without a model. Two runs are also compared, by paired differences.

    Files for test servers, and the texts of MME, are written again as well.
    """
    from monkeylib.evaluation import prediction_folders

    metric_names = _metric_names(metrics)
    expanded = [resources.to_path(path) for path in paths]
    unique = list({path.resolve(): path for path in expanded}.values())

    for path in unique:
        if not path.is_dir() and not path.is_file():
            raise FileNotFoundError(f"there are no predictions at {path}: name a folder or a file of them")
    files = [path for path in unique if not path.is_dir()]
    if files and len(files) < len(unique):
        raise ValueError(f"{files[0]} is a file, others are folders: score them one after the other")
    if files:
        if gallery:
            raise ValueError("--gallery is for folders of `monkeylib evaluate`, not for files of predictions")
        return _score_files(files, metric_names, benchmark, data, by, out and resources.to_path(out), json)
    if benchmark or out:
        raise ValueError(
            "--benchmark and --out are for files of predictions: a folder knows its benchmarks and has a "
            "scores.csv of its own"
        )

    if gallery:
        with options.lines_of_json_alone(json):
            for folder in unique:
                _write_galleries(folder, data, gallery)
    for folder in unique:
        _write_submissions(folder)

    # Predictions for test servers alone have no scores here.
    scored = [path for path in unique if prediction_folders.has_scores(path, any_name=bool(metric_names))]
    if scored:
        _report(scored, metric_names, by=by, json=json)


def _write_galleries(folder: Path, data: Path | None, count: int) -> None:
    """Write the error galleries of a folder: they need the questions and images, scores don't."""
    from monkeylib.evaluation import error_gallery, prediction_folders
    from monkeylib.evaluation.examples import read_predictions

    for name, file in prediction_folders.prediction_files(folder).items():
        benchmark = _benchmark_of_predictions(name, data)
        page = folder / error_gallery.page_name(benchmark)
        error_gallery.require_page(page)

        rows = read_predictions(file)
        if not prediction_folders.is_unanswerable(rows):
            error_gallery.write_gallery(benchmark, rows, benchmark.load(None), page, count)


def _write_submissions(folder: Path) -> None:
    """Write the submission files of a folder."""
    from monkeylib.evaluation import prediction_folders, submissions
    from monkeylib.evaluation.benchmarks import BENCHMARKS
    from monkeylib.evaluation.foreign_predictions import read_any_predictions

    for name, file in prediction_folders.prediction_files(folder, any_name=True).items():
        # Other files need not be predictions.
        if name in BENCHMARKS and submissions.file_names(BENCHMARKS[name]):
            rows = read_any_predictions(file)
            if submissions.needs_submission(BENCHMARKS[name], rows):
                submissions.report_submission(BENCHMARKS[name], rows, folder)


def _score_files(
    files: Sequence[Path],
    metrics: Sequence[str],
    benchmark_name: str,
    data: Path | None,
    by: str,
    out: Path | None,
    json: bool = False,
) -> None:
    """Score files of predictions, each as a model of its own, and print the scores.

    Args:
        files: the files.
        metrics: names of metrics; empty for those of the benchmark.
        benchmark_name: benchmark that the predictions are for; empty if they hold answers, or for one's own.
        data: folder of the downloads, or file of questions.
        by: field whose values divide the questions into groups; empty for none.
        out: CSV file for the scores.
        json: print lines of JSON in place of tables.
    """
    from rich.console import Console

    from monkeylib import tables
    from monkeylib.evaluation import (
        foreign_predictions,
        own_benchmarks,
        prediction_folders,
        results,
        score_tables,
        submissions,
    )

    benchmark = None
    if benchmark_name or (data is not None and own_benchmarks.is_own_data(resources.to_path(data))):
        (benchmark,) = _select_benchmarks(benchmark_name, data, "", metrics)
    elif data is not None:
        raise ValueError(
            f"--data {data} is no file of questions: name one, or the benchmark of a folder of downloads "
            "with --benchmark"
        )

    labels = [file.name for file in files]
    if len(set(labels)) < len(labels):
        labels = [str(file) for file in files]

    runs = {}
    for file, label in zip(files, labels, strict=True):
        rows = foreign_predictions.read_any_predictions(file)
        if benchmark is not None:
            rows = foreign_predictions.match(rows, benchmark, file)
            if submissions.needs_submission(benchmark, rows):
                submissions.report_submission(benchmark, rows, file.parent)

        if not prediction_folders.is_unanswerable(rows):
            runs[label, benchmark.name if benchmark else "predictions"] = rows
        elif benchmark is None:
            raise ValueError(
                f"{resources.display_path(file)} holds no accepted answers: name the benchmark that they are "
                "in with --benchmark, and --data for its files or for your own file of questions"
            )
    if not runs:
        return

    if benchmark is None and not metrics:
        # Those that the run of the file is scored by, if it is one's own.
        metrics = prediction_folders.metrics_of_benchmark(files[0].parent, files[0].stem)
        if not metrics:
            metrics = own_benchmarks.QUESTION_METRICS
            say(f"the metrics are {', '.join(metrics)}; --metrics takes others")
    names = tuple(metrics) or benchmark.metrics
    table = results.score_runs(runs, {split: names for _, split in runs}, by=by or None)

    console = Console()
    title = ", ".join(map(resources.display_path, files))
    _print_scores(table, title, console, json)
    if len(runs) == 2 and not json:
        first, second = runs.values()
        if {row.id for row in first} == {row.id for row in second}:
            row = score_tables.difference_row(table[0].split, names[0], first, second)
            tables.print_table([row], f"{labels[0]} - {labels[1]}, paired", console)
    if out is not None:
        prediction_folders.require_score_table(out)
        results.write_table(table, out, answer_counts=True)
        if not json:
            print(f"scores: {resources.display_path(out)}")


def _print_scores(rows: "Sequence[ScoreRow]", title: str, console: "Console", json: bool) -> None:
    """Print scores as a table with remarks, or each as a line of JSON."""
    from monkeylib import tables
    from monkeylib.evaluation import score_tables

    if json:
        for row in rows:
            options.print_json(dataclasses.asdict(row))
        return

    tables.print_table(score_tables.summary_table(rows), title, console)
    for sentence in score_tables.answer_warnings(rows):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def _metric_names(metrics: str) -> list[str]:
    """Return the names of metrics that are separated by commas.

    Raises:
        ValueError: there is no such metric.
    """
    from monkeylib.evaluation.metrics import registry

    return [registry.get(name.strip()).name for name in metrics.split(",")] if metrics else []


def _select_benchmarks(
    names: str, data: Path | None, prompt: str, metrics: Sequence[str]
) -> "list[Benchmark]":
    """Return the benchmarks of a call: those that are named, one's own, or all whose files exist."""
    from monkeylib.evaluation.benchmarks import available, get
    from monkeylib.evaluation.own_benchmarks import is_own_data, own_benchmark

    if data is not None and is_own_data(resources.to_path(data)):
        if names:
            raise ValueError(
                f"--data {data} is a file of questions, a benchmark of its own: leave --benchmarks {names} "
                "out, or name the folder of the downloads"
            )
        return [own_benchmark(resources.to_path(data), metrics, prompt)]

    # Without names, all that can be used are; synthetic ones take no other prompt.
    if names:
        selected = [name.strip() for name in names.split(",")]
    else:
        selected = [name for name in available(data) if get(name).card or not prompt]
    benchmarks = [_benchmark(name, prompt or None, data) for name in dict.fromkeys(selected)]
    return [dataclasses.replace(entry, metrics=tuple(metrics)) if metrics else entry for entry in benchmarks]


def _benchmark(name: str, prompt: str | None, data: Path | None) -> "Benchmark":
    """Return the benchmark of that name. Synthetic benchmarks need no folder of downloads."""
    from monkeylib.evaluation.benchmarks import BENCHMARKS, get

    if name not in BENCHMARKS and (Path(name).is_file() or ((data or Path()) / name).is_file()):
        raise ValueError(f"{name} is a file of questions, and no benchmark's name: pass it as --data {name}")
    if data is not None and not data.exists():
        raise FileNotFoundError(
            f"there is nothing at {data}: name the folder of the downloads, or a file of questions"
        )
    return get(name, prompt=prompt, data=data if get(name).card else None)


def _benchmark_of_predictions(name: str, data: Path | None) -> "Benchmark":
    """Return the benchmark that a predictions file is named after, with its questions and images.

    Raises:
        ValueError: it is one's own, and `--data` doesn't name its file.
    """
    from monkeylib.evaluation.benchmarks import BENCHMARKS
    from monkeylib.evaluation.own_benchmarks import is_own_data, own_benchmark

    own = None
    if data is not None and is_own_data(resources.to_path(data)):
        own = own_benchmark(resources.to_path(data))
    if own is not None and own.name == name:
        return own
    if name not in BENCHMARKS:
        raise ValueError(f"the images of {name} are needed: name its file of questions with --data")
    return _benchmark(name, None, None if own else data)


def _default_folder(path: str) -> Path:
    """Return the folder for the predictions of a model, named after its path or its name on a hub."""
    recorded = resources.recorded_path(path) if Path(path).exists() else path
    return resources.runs("evaluate") / recorded.strip("/").replace("/", "--")


def _report(
    folders: Sequence[Path],
    metrics: Sequence[str],
    *,
    by: str = "",
    ids: Mapping[str, Collection[str]] | None = None,
    json: bool = False,
) -> None:
    """Write scores.csv of each folder and print all scores; of two folders, also their paired differences.

    Args:
        folders: folders of predictions.
        metrics: metrics in place of the benchmarks'.
        by: field whose values divide the examples into groups; empty for none.
        ids: examples to be scored, by benchmark; by default all.
        json: print lines of JSON in place of tables.
    """
    from rich.console import Console

    from monkeylib import tables
    from monkeylib.evaluation import prediction_folders, score_tables

    # Scores are computed anew from the predictions, also those of an earlier call.
    console = Console()
    rows = []
    labels = prediction_folders.run_labels(folders)
    for folder, label in zip(folders, labels, strict=True):
        # Two runs of one model are two columns.
        scores = prediction_folders.score_folder(folder, metrics, by=by or None, ids=ids)
        rows += [dataclasses.replace(row, model=label) for row in scores]

    files = ", ".join(resources.display_path(folder / prediction_folders.SCORES_FILE) for folder in folders)
    _print_scores(rows, files, console, json)

    if len(folders) == 2 and not metrics and not json:
        first, second = labels
        tables.print_table(score_tables.paired_differences(*folders), f"{first} - {second}, paired", console)


def _model_name(path: str) -> str:
    """Return what tables call a model: its name on a hub, or the name of its folder or training run."""
    # A name on a hub is no folder here.
    folder = Path(path).resolve()
    if not folder.exists():
        return path
    # A run keeps its weights in `<run>/model`.
    return folder.parent.name if folder.name == "model" else folder.name
