"""A model asked several benchmarks, into one folder."""

from collections.abc import Sequence
from pathlib import Path

from monkeylib import paths
from monkeylib.evaluation import folders, mistakes, processes, runner
from monkeylib.evaluation.benchmarks import Benchmark
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.others import ChatModel
from monkeylib.inference import Monkey
from monkeylib.plots import galleries


def run(
    model: Monkey | ChatModel,
    benchmarks: Sequence[Benchmark],
    folder: Path,
    *,
    model_name: str,
    limit: int | None = None,
    batch_size: int = 16,
    fresh: bool = False,
    gallery: int = 0,
    progress: bool = False,
) -> bool:
    """Answer benchmarks, one predictions file each; what is there already isn't asked again.

    Args:
        model: what `others.load` gave.
        benchmarks: what to ask.
        folder: where the predictions go.
        model_name: what tables call the model.
        limit: questions of each benchmark at most.
        batch_size: questions answered at once.
        fresh: replace predictions of another model or other questions.
        gallery: mistakes of each benchmark on a page of its own; 0 for no pages.
        progress: show progress bars.

    Returns:
        Whether this process is the one that goes on with the folder: the first of those that worked on it.

    Raises:
        ValueError: the folder holds other predictions and `fresh` isn't set.
    """
    workers = processes.join()
    for benchmark in benchmarks:
        examples = benchmark.load(limit)
        length = benchmark.max_new_tokens
        answered = runner.predict(
            model.limited(length) if isinstance(model, ChatModel) else model,
            examples,
            folder / f"{benchmark.name}.jsonl",
            batch_size=batch_size,
            max_new_tokens=length,
            progress=progress,
            stale="replace" if fresh else "error",
            workers=workers,
        )
        if workers.first and gallery:
            write_gallery(benchmark, answered.path, examples, gallery)
    if workers.first:
        folders.note(folder, model_name)
    return workers.first


def write_gallery(benchmark: Benchmark, predictions: Path, examples: Sequence[Example], count: int) -> Path:
    """The page of the worst answers to a benchmark, mistakes/<benchmark>.html beside its predictions."""
    worst = mistakes.worst(predictions, benchmark.metrics[0], count)
    page = predictions.parent / "mistakes" / f"{benchmark.name}.html"
    title = f"{benchmark.title}: the worst {len(worst)} answers"
    galleries.write_page(worst, galleries.pictures_of(examples), page, title)
    print(f"mistakes: {paths.shown(page)}")
    return page
