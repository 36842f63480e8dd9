"""Examples of a benchmark, and predictions for them on disk."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from monkeylib.images import ImageInput


@dataclass(frozen=True)
class Example:
    """A question about an image, with the answers that count as correct.

    Attributes:
        id: unique within the benchmark.
        image: an image, or a function that renders it on demand.
        question: may be empty for prompts that take none.
        answers: accepted answers.
        prompt: a name from `prompts.PROMPTS`.
        image_id: the same for examples about the same image, which is encoded once for all of them; if
            empty, no other example shares the image.
        meta: family, text size and so on, stored with the prediction for scores by group.
    """

    id: str
    image: ImageInput | Callable[[], ImageInput]
    question: str
    answers: tuple[str, ...]
    prompt: str = "vqa"
    image_id: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image_key(self) -> str:
        """Key of the example's image."""
        return self.image_id or self.id

    @property
    def rendered_image(self) -> ImageInput:
        """The image, rendered now if it comes from a function."""
        return self.image() if callable(self.image) else self.image


@dataclass(frozen=True)
class Prediction:
    """One line of a predictions file: an example without its image, and the answer of a model to it.

    Attributes:
        image: the example's `image_key`.
        prediction: the model's answer.
        model: the model's fingerprint or name.
    """

    id: str
    image: str
    question: str
    answers: list[str]
    prompt: str
    prediction: str
    model: str
    meta: dict[str, Any]

    @classmethod
    def from_example(cls, example: Example, answer: str, model: str) -> "Prediction":
        """Return the prediction for an example, equal to what is read back from disk."""
        return cls(
            id=example.id,
            image=example.image_key,
            question=example.question,
            answers=list(example.answers),
            prompt=example.prompt,
            prediction=answer,
            model=model,
            meta=json.loads(json.dumps(dict(example.meta))),  # tuples become lists, as on disk
        )

    def to_line(self) -> bytes:
        """Return the prediction as a line of JSON."""
        # A model can write half of a surrogate pair, which UTF-8 cannot hold: it is escaped as in JSON.
        text = json.dumps(asdict(self), ensure_ascii=False) + "\n"
        return text.encode("utf-8", errors="backslashreplace")


def make_batches(examples: Sequence[Example], size: int) -> list[list[Example]]:
    """Batch examples of similar length, to pad little, and keep the questions of an image together."""
    # The questions of an image stay together, so that it is encoded once.
    by_image: dict[str, list[Example]] = {}
    for example in examples:
        by_image.setdefault(example.image_key, []).append(example)

    def question_length(example: Example) -> int:
        return len(example.question)

    # Images in the order of their longest question, since it decides the padding of a batch.
    groups = sorted(by_image.values(), key=lambda group: max(map(question_length, group)))
    ordered: list[Example] = []
    for group in groups:
        ordered += sorted(group, key=question_length)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def read_predictions(path: Path | str) -> list[Prediction]:
    """Read the predictions of a file, in its order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no prediction.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There are no predictions at {path}: write them with evaluation.predict first."
        )

    return read_complete_lines(path)


def read_complete_lines(path: Path) -> list[Prediction]:
    """Read the predictions of a file; a last line without its end, as a kill leaves it, is left out.

    Raises:
        ValueError: a complete line is no prediction.
    """
    predictions = []

    # As bytes: a kill may have cut a line inside a character.
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        # Only the last line can be incomplete.
        if not line.endswith(b"\n"):
            break

        try:
            predictions.append(Prediction(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"Line {number} of {path} is no prediction ({error}): delete the file and predict anew."
            ) from error

    return predictions
