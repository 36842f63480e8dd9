"""The command line's `monkeylib evaluate` and `monkeylib score`."""

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
        help="Checkpoint folder, or any image-text model of transformers by folder or name; by default the "
        "trained nano model, else its base."
    ),
]
BenchmarksOption = Annotated[
    str, typer.Option(help="Names with commas; by default all whose files are there.")
]
PromptOption = Annotated[
    str, typer.Option(help="Instead of a benchmark's own: documented, released, or any name of a prompt.")
]
OutOption = Annotated[
    Path | None, typer.Option(help="Folder of the predictions, of scores.csv and of the error galleries.")
]
FreshOption = Annotated[
    bool, typer.Option("--fresh", help="Replace predictions of another model or other questions.")
]
DataOption = Annotated[
    Path | None, typer.Option(help="Folder of the benchmarks' downloads; MONKEYLIB_DATA by default.")
]
GalleryOption = Annotated[
    int,
    typer.Option(
        "--gallery", min=0, help="Wrong answers in the error gallery of each benchmark; 0 for none."
    ),
]


def evaluate(
    model: ModelOption = "",
    benchmarks: BenchmarksOption = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Questions of each benchmark at most.")] = None,
    prompt: PromptOption = "",
    data: DataOption = None,
    out: OutOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered at once.")] = 16,
    fresh: FreshOption = False,
    gallery: GalleryOption = 24,
) -> None:
    """Score a model on benchmarks; called again, it goes on with the predictions that are missing.

    Started by torchrun, its processes divide the questions, each on a GPU of its own or on the CPU.
    """
    from monkeylib.evaluation import hf_models, predict
    from monkeylib.evaluation.benchmarks import available

    names = benchmarks.split(",") if benchmarks else available(data)
    chosen = [_benchmark(name.strip(), prompt or None, data) for name in names]
    path = model or str(options.default_checkpoint())
    shown = resources.display_path(path) if Path(path).exists() else path
    folder = out or resources.runs("evaluate") / shown.strip("/").replace("/", "--")
    _quiet()
    done = predict.predict_benchmarks(
        hf_models.load_image_text_model(path),
        chosen,
        folder,
        model_name=_name(path),
        limit=limit,
        batch_size=batch_size,
        fresh=fresh,
        gallery=gallery,
        progress=sys.stderr.isatty(),
    )
    if done:
        _report([folder], [])


def score(
    folder: Annotated[list[Path], typer.Argument(help="Folders that `monkeylib evaluate` has written.")],
    metrics: Annotated[
        str,
        typer.Option(
            help="Other metrics than the benchmarks' own, with commas; files of any name are then scored."
        ),
    ] = "",
    data: DataOption = None,
    gallery: GalleryOption = 0,
) -> None:
    """Score predictions again, without a model; two folders are compared question by question."""
    from monkeylib.evaluation import error_gallery, results
    from monkeylib.evaluation.metrics import registry as known

    names = [known.get(name.strip()).name for name in metrics.split(",")] if metrics else []
    for each in folder if gallery else ():
        for name, file in results.prediction_files(each).items():
            benchmark = _benchmark(name, None, data)
            error_gallery.write_gallery(benchmark, file, benchmark.load(None), gallery)
    _report(folder, names)


def _benchmark(name: str, prompt: str | None, data: Path | None) -> "Benchmark":
    """The benchmark of that name; nano's, made in code, need no folder."""
    from monkeylib.evaluation.benchmarks import get

    return get(name, prompt=prompt, data=data if get(name).card else None)


def _report(folders: Sequence[Path], metrics: Sequence[str]) -> None:
    """Write scores.csv of each folder, print the table, and the difference of two."""
    from rich.console import Console

    from monkeylib import tables
    from monkeylib.evaluation import results

    console = Console()
    rows = [row for folder in folders for row in results.score_folder(folder, metrics)]
    files = ", ".join(resources.display_path(folder / results.SCORES_FILE) for folder in folders)
    tables.print_table(results.summary_table(rows), files, console)
    if len(folders) == 2 and not metrics:
        first, second = map(results.read_model_name, folders)
        tables.print_table(results.paired_differences(*folders), f"{first} - {second}, paired", console)


def _name(path: str) -> str:
    """What to call a model: its name on a hub, or its folder's, that of the run where a run trained it."""
    folder = Path(path).resolve()
    if not folder.exists():
        return path
    return folder.parent.name if folder.name == "model" else folder.name


def _quiet() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()  # of reading the weights, which takes no time that one would watch
