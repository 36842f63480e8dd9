"""What is asked and what was answered: examples, predictions, and their lines on disk."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from monkeylib.processing import ImageInput


@dataclass(frozen=True)
class Example:
    """A question about an image, with the answers that count as right.

    `image` is an image or a function that gives one when it is needed. Examples with the same `image_id` are
    about the same image, which is encoded once for all of them; left empty, the image is its own.
    `meta` (family, size of print ...) is kept with the prediction, for scores by group.
    """

    id: str
    image: ImageInput | Callable[[], ImageInput]
    question: str
    answers: tuple[str, ...]
    prompt: str = "vqa"
    image_id: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What the example's image is known by."""
        return self.image_id or self.id

    @property
    def rendered_image(self) -> ImageInput:
        """The image, rendered now if it comes from a function."""
        return self.image() if callable(self.image) else self.image


@dataclass(frozen=True)
class Prediction:
    """One line of a predictions file: an example without its image, the answer, and whose it is."""

    id: str
    image: str
    question: str
    answers: list[str]
    prompt: str
    prediction: str
    model: str
    meta: dict[str, Any]

    @classmethod
    def of(cls, example: Example, answer: str, model: str) -> "Prediction":
        """The prediction for an example, as it reads back from disk."""
        return cls(
            id=example.id,
            image=example.key,
            question=example.question,
            answers=list(example.answers),
            prompt=example.prompt,
            prediction=answer,
            model=model,
            meta=json.loads(json.dumps(dict(example.meta))),
        )

    @property
    def line(self) -> bytes:
        """The prediction as a line of JSON."""
        text = json.dumps(asdict(self), ensure_ascii=False) + "\n"
        return text.encode("utf-8", errors="backslashreplace")


def batches(examples: Sequence[Example], size: int) -> list[list[Example]]:
    """Examples of similar length together, so that little is padded, and an image's questions in a row."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.key, []).append(example)
    ordered = sorted(groups.values(), key=lambda group: max(len(example.question) for example in group))
    row = [example for group in ordered for example in sorted(group, key=lambda e: len(e.question))]
    return [row[start : start + size] for start in range(0, len(row), size)]


def whole_lines(path: Path) -> tuple[list[Prediction], int]:
    """The predictions of a file and the length in bytes of its whole lines; a cut-off last line is none.

    Raises:
        ValueError: a whole line is no prediction.
    """
    predictions, length = [], 0
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            predictions.append(Prediction(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"Line {number} of {path} is no prediction ({error}): delete the file and predict anew."
            ) from error
        length += len(line)
    return predictions, length


def read_predictions(path: Path | str) -> list[Prediction]:
    """The predictions of a file, in its order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no prediction.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There are no predictions at {path}: write them with runner.predict first.")
    return whole_lines(Path(path))[0]
