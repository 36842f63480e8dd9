"""The same questions of the nano world, answered by several models: images, evidence and outcomes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from monkeylib.boxes import Box
from monkeylib.data import synthetic
from monkeylib.evaluation.examples import Prediction, read_predictions
from monkeylib.evaluation.metrics.text import exact_match


@dataclass(frozen=True)
class Case:
    """One question with the answer of each model, by the model's name."""

    asked: Prediction  # of the first model; only its question is used
    given: Mapping[str, str]

    @property
    def right(self) -> dict[str, bool]:
        """Which models' answers match exactly."""
        accepted = self.asked.answers
        return {model: exact_match(text, accepted) == 1 for model, text in self.given.items()}

    @property
    def image(self) -> Image.Image:
        """The image, drawn again from its number."""
        return image(self.asked)

    @property
    def evidence(self) -> Box | None:
        """Where the answer stands, in pixels of the image; captions have none."""
        box = self.asked.meta.get("evidence")
        return None if box is None else tuple(box)


def image(asked: Prediction) -> Image.Image:
    """The image of a prediction, drawn again from its number."""
    return synthetic.make_sample(int(asked.image.rsplit("-", 1)[1]), "test").image


def read(files: Mapping[str, Path]) -> list[Case]:
    """Cases of a split from the predictions file of each model.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the models were asked different questions.
    """
    rows = {model: {row.id: row for row in read_predictions(file)} for model, file in files.items()}
    first = next(iter(rows.values()))
    for model, own in rows.items():
        if own.keys() != first.keys():
            raise ValueError(
                f"The predictions of {model} in {files[model]} answer other questions than those of "
                f"{next(iter(rows))}: evaluate both with the same counts."
            )
    return [
        Case(row, {model: own[row.id].prediction for model, own in rows.items()}) for row in first.values()
    ]


def outcomes(cases: Sequence[Case], first: str, second: str) -> dict[str, list[Case]]:
    """The cases by who was right: only the first model, only the second, both, or neither."""
    names = {
        (True, False): f"only {first}",
        (False, True): f"only {second}",
        (True, True): "both",
        (False, False): "neither",
    }
    found: dict[str, list[Case]] = {name: [] for name in names.values()}
    for case in cases:
        found[names[case.right[first], case.right[second]]].append(case)
    return found


def of_different_images(cases: Sequence[Case], count: int) -> list[Case]:
    """The first `count` cases, at most one of each image."""
    return list({case.asked.image: case for case in reversed(cases)}.values())[::-1][:count]
