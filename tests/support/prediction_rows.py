"""Predictions about synthetic images, as a run would leave them on disk."""

from collections.abc import Sequence
from pathlib import Path

from monkeylib.evaluation import results
from monkeylib.evaluation.examples import Prediction


def prediction(number: int, correct: bool, label: str = "yes", split: str = "fine") -> Prediction:
    """Return the prediction of question `number`, each about another image."""
    return Prediction(
        id=f"{split}-{number}",
        image=f"nano-test-{number}",
        question="what is it?",
        answers=[label],
        prompt="vqa",
        prediction=label if correct else "wrong",
        model="",
        meta={"family": "document" if number % 2 else "scene_text", "answer_box": [1.0, 2.0, 30.0, 40.0]},
    )


def predictions_of_images(is_correct, images=20):
    """Two questions about each image, answered correctly where `is_correct(image)`."""
    return [
        Prediction(
            id=f"{image}-{number}",
            image=f"image {image}",
            question="what is it?",
            answers=["yes", "no"],
            prompt="vqa",
            prediction="yes" if is_correct(image) else "maybe",
            model="",
            meta={"family": "general" if image % 2 else "document"},
        )
        for image in range(images)
        for number in range(2)
    ]


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> Path:
    """Write a predictions file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(row.to_line() for row in predictions))
    return path


def score(predictions: Path | Sequence[Prediction], metric: str) -> results.ScoreRow:
    """Return the row of one metric over all examples of a run."""
    return results.score_runs({("model", "split"): predictions}, {"split": [metric]})[0]
