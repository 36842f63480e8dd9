"""Qualitative examples: questions about synthetic images with the answers of several models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from monkeylib.boxes import Box
from monkeylib.data import synthetic
from monkeylib.data.synthetic.renderings import RENDERINGS
from monkeylib.data.synthetic.transfer import make_transfer_sample
from monkeylib.evaluation.benchmarks import TRANSFER
from monkeylib.evaluation.examples import Prediction, read_predictions
from monkeylib.evaluation.metrics.text import exact_match
from monkeylib.evaluation.statistics import mean_interval
from monkeylib.tables import Row
from monkeylib.tiling import Grid


@dataclass(frozen=True)
class QualitativeExample:
    """A question with the answers of several models.

    Attributes:
        prediction: the prediction of the first model, for its question, accepted answers and image.
        answers: the answer of each model, by the model's name.
    """

    prediction: Prediction
    answers: Mapping[str, str]

    @property
    def correct(self) -> dict[str, bool]:
        """Whether the answer of each model matches an accepted answer exactly."""
        accepted = self.prediction.answers
        return {model: exact_match(answer, accepted) == 1 for model, answer in self.answers.items()}

    @property
    def image(self) -> Image.Image:
        """The image, rendered again from its seed."""
        return render_image(self.prediction)

    @property
    def answer_box(self) -> Box | None:
        """Box of the answer in pixels of the image; None for captions."""
        # JSON has no tuples.
        box = self.prediction.meta.get("answer_box")
        return None if box is None else tuple(box)


def render_image(prediction: Prediction) -> Image.Image:
    """Render the synthetic image of a prediction again from the seed in its name."""
    # "nano-test-17", or "nano-fixed-test-17" and "nano-transfer-test-17"
    _, name, *_, seed = prediction.image.split("-")
    if name == TRANSFER:
        return make_transfer_sample(int(seed)).image
    return synthetic.make_sample(
        int(seed), "test", rendering=name if name in RENDERINGS else "ordinary"
    ).image


def read_examples(files: Mapping[str, Path]) -> list[QualitativeExample]:
    """Read the predictions file of each model and join them by question.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the models answered different questions.
    """
    predictions_of = {
        model: {prediction.id: prediction for prediction in read_predictions(file)}
        for model, file in files.items()
    }

    # All models must have answered the questions of the first.
    first_model = next(iter(files))
    first = predictions_of[first_model]
    for model, predictions in predictions_of.items():
        if predictions.keys() != first.keys():
            raise ValueError(
                f"The predictions of {model} in {files[model]} answer other questions than those of "
                f"{first_model}: evaluate both with the same counts."
            )

    examples = []
    for id, prediction in first.items():
        answers = {model: predictions[id].prediction for model, predictions in predictions_of.items()}
        examples.append(QualitativeExample(prediction, answers))

    return examples


def group_by_outcome(
    examples: Sequence[QualitativeExample], first: str, second: str
) -> dict[str, list[QualitativeExample]]:
    """Group examples by which of two models is correct: only the first, only the second, both or neither."""
    # Which of the two is correct -> name of the group.
    names = {
        (True, False): f"only {first}",
        (False, True): f"only {second}",
        (True, True): "both",
        (False, False): "neither",
    }

    groups: dict[str, list[QualitativeExample]] = {name: [] for name in names.values()}
    for example in examples:
        correct = example.correct
        groups[names[correct[first], correct[second]]].append(example)

    return groups


def border_scores(examples: Sequence[QualitativeExample], grid: Grid) -> list[Row]:
    """Compare questions by how the borders between tiles cut the text that their answer needs.

    Args:
        examples: questions about the text of images, with the answers of models.
        grid: rows and columns of tiles.

    Returns:
        A row for each model, `family` of images and `border`: "none", "between letters" (a vertical one) or
        "through letters" (a horizontal one). `correct` is the share of exact matches with its interval
        (`low`, `high`), `n` the number of questions and `characters` the mean length of their answers: longer
        text is cut more often, and harder in any case. A group without questions is left out.
    """
    groups: dict[tuple[str, str], list[QualitativeExample]] = {}
    for example in examples:
        key = (str(example.prediction.meta.get("family", "")), border_of(example, grid))
        groups.setdefault(key, []).append(example)

    rows: list[Row] = []
    for model in examples[0].answers:
        for (family, border), group in sorted(groups.items()):
            correct = [float(example.correct[model]) for example in group]
            interval = mean_interval(correct, clusters=[example.prediction.image for example in group])
            lengths = [len(example.prediction.answers[0]) for example in group]
            rows.append(
                {
                    "model": model,
                    "family": family,
                    "border": border,
                    "correct": interval.value,
                    "low": interval.low,
                    "high": interval.high,
                    "n": interval.n,
                    "characters": sum(lengths) / len(lengths),
                }
            )
    return rows


def border_of(example: QualitativeExample, grid: Grid) -> str:
    """Return how borders between tiles cut the text that an answer needs: see `border_scores`."""
    assert example.answer_box is not None
    width, height = example.image.size
    x0, y0, x1, y1 = example.answer_box

    if any(y0 < row * height / grid.rows < y1 for row in range(1, grid.rows)):
        return "through letters"
    if any(x0 < col * width / grid.cols < x1 for col in range(1, grid.cols)):
        return "between letters"
    return "none"
