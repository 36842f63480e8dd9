"""The wrong answers of an evaluated model, with their images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from monkeylib import resources
from monkeylib.errors import choose
from monkeylib.evaluation import benchmarks
from monkeylib.evaluation.error_gallery import ImageOf, WrongAnswer, image_lookup, worst_answers
from monkeylib.evaluation.prediction_folders import metrics_of_benchmark, prediction_files
from monkeylib.experiments.qualitative import render_image


@dataclass(frozen=True)
class WrongAnswers:
    """The wrong answers to a benchmark.

    Attributes:
        benchmark: its name.
        answers: the worst first.
        image_of: returns the image of a prediction.
    """

    benchmark: str
    answers: list[WrongAnswer]
    image_of: ImageOf


def read_wrong_answers(folder: Path | str, benchmark: str = "", count: int = 50) -> WrongAnswers:
    """Return the worst answers of a folder of predictions.

    Args:
        folder: written by `monkeylib evaluate`.
        benchmark: one of its benchmarks; by default the first one.
        count: the most answers.

    Raises:
        FileNotFoundError: the folder holds no predictions.
        ValueError: it holds none of that benchmark.
    """
    files = prediction_files(Path(folder))
    with_images = [name for name in files if name in benchmarks.BENCHMARKS]
    if not with_images:
        raise ValueError(
            f"{folder} holds answers to questions of your own alone, whose images it does not name: "
            f"`monkeylib score {resources.shell_path(folder)} --data FILE --gallery {count}` shows them"
        )
    name = choose("benchmark", benchmark or with_images[0], with_images)
    metric = metrics_of_benchmark(Path(folder), name)[0]
    answers = worst_answers(files[name], metric, count, per_image=count)

    # Synthetic images are rendered from their number, one at a time.
    is_synthetic = benchmarks.BENCHMARKS[name].card is None
    image_of = render_image if is_synthetic else image_lookup(benchmarks.get(name).load(None))
    return WrongAnswers(name, answers, image_of)
