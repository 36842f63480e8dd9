"""`monkeylib evaluate` and `monkeylib score`: predictions on benchmarks, and their scores."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monkeylib import resources
from monkeylib.cli import options

if TYPE_CHECKING:
    from monkeylib.evaluation.benchmarks import Benchmark

ModelOption = Annotated[
    str,
    typer.Option(
        help="Checkpoint folder, or folder or name of any image-text model of transformers; by default the "
        "trained nano model, else its base."
    ),
]
BenchmarksOption = Annotated[
    str, typer.Option(help="Names, separated by commas. Default: all whose files exist.")
]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Maximum number of questions per benchmark.")]
PromptOption = Annotated[
    str,
    typer.Option(help="Prompt in place of the benchmark's: documented, released, or the name of a prompt."),
]
DataOption = Annotated[Path | None, typer.Option(help="Folder of the downloads. Default: MONKEYLIB_DATA.")]
OutOption = Annotated[
    Path | None, typer.Option(help="Folder for the predictions, scores.csv and the error galleries.")
]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Questions answered at once.")]
FreshOption = Annotated[
    bool, typer.Option("--fresh", help="Replace predictions of another model or of other questions.")
]
GalleryOption = Annotated[
    int,
    typer.Option(
        "--gallery", min=0, help="Wrong answers in each benchmark's error gallery; 0 writes no gallery."
    ),
]
FoldersArgument = Annotated[list[Path], typer.Argument(help="Folders that `monkeylib evaluate` has written.")]
MetricsOption = Annotated[
    str,
    typer.Option(
        help="Metrics in place of the benchmarks', separated by commas. Files of any name are then scored."
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
) -> None:
    """Evaluate a model on benchmarks. Run it again to resume with the missing predictions.

    Under torchrun, processes divide the questions among them, each on its own GPU or on the CPU.
    """
    from monkeylib.evaluation import hf_models, predict
    from monkeylib.evaluation.benchmarks import available

    # A wrong name or prompt is reported before the model is loaded.
    names = benchmarks.split(",") if benchmarks else available(data)
    selected = [_benchmark(name.strip(), prompt or None, data) for name in names]
    path = model or str(options.default_checkpoint())
    folder = out or _default_folder(path)

    _hide_loading_bars()
    # Every process of torchrun comes here; one of them reports.
    is_main = predict.predict_benchmarks(
        hf_models.load_image_text_model(path),
        selected,
        folder,
        model_name=_model_name(path),
        limit=limit,
        batch_size=batch_size,
        fresh=fresh,
        gallery=gallery,
        progress=sys.stderr.isatty(),
    )
    if is_main:
        _report([folder], [])


def score(
    folder: FoldersArgument,
    metrics: MetricsOption = "",
    data: DataOption = None,
    gallery: GalleryOption = 0,
) -> None:
    """Score predictions again, without a model. Two folders are also compared, by paired differences."""
    from monkeylib.evaluation import error_gallery, results
    from monkeylib.evaluation.metrics import registry

    metric_names = [registry.get(name.strip()).name for name in metrics.split(",")] if metrics else []

    # A gallery needs the questions and images, scores need the predictions alone.
    if gallery:
        for predictions_folder in folder:
            for name, file in results.prediction_files(predictions_folder).items():
                benchmark = _benchmark(name, None, data)
                error_gallery.write_gallery(benchmark, file, benchmark.load(None), gallery)

    _report(folder, metric_names)


def _benchmark(name: str, prompt: str | None, data: Path | None) -> "Benchmark":
    """Return the benchmark of that name. Synthetic benchmarks need no folder of downloads."""
    from monkeylib.evaluation.benchmarks import get

    return get(name, prompt=prompt, data=data if get(name).card else None)


def _default_folder(path: str) -> Path:
    """Return the folder for the predictions of a model, named after its path or its name on a hub."""
    displayed = resources.display_path(path) if Path(path).exists() else path
    return resources.runs("evaluate") / displayed.strip("/").replace("/", "--")


def _report(folders: Sequence[Path], metrics: Sequence[str]) -> None:
    """Write scores.csv of each folder and print all scores; of two folders, also their paired differences."""
    from rich.console import Console

    from monkeylib import tables
    from monkeylib.evaluation import results

    # Scores are computed anew from the predictions, also those of an earlier call.
    console = Console()
    rows = [row for folder in folders for row in results.score_folder(folder, metrics)]
    files = ", ".join(resources.display_path(folder / results.SCORES_FILE) for folder in folders)
    tables.print_table(results.summary_table(rows), files, console)

    if len(folders) == 2 and not metrics:
        first, second = (results.read_model_name(folder) for folder in folders)
        tables.print_table(results.paired_differences(*folders), f"{first} - {second}, paired", console)


def _model_name(path: str) -> str:
    """Return what tables call a model: its name on a hub, or the name of its folder or training run."""
    # A name on a hub is no folder here.
    folder = Path(path).resolve()
    if not folder.exists():
        return path
    # A run keeps its weights in `<run>/model`.
    return folder.parent.name if folder.name == "model" else folder.name


def _hide_loading_bars() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()  # reading the weights is too short to watch
