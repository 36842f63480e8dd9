"""MME's scores (Fu et al., 2023): two yes-or-no questions about every image, in 14 tasks.

A task's score is its accuracy over questions plus accuracy+, the share of images with both questions right.
Perception is the sum over ten tasks, cognition over four. Scores are kept as shares, as all others are: times
100 they are MME's, with 2000 and 800 at most. Answering by chance gives an accuracy of 50 % and an accuracy+
of 25 %.
"""

from collections.abc import Sequence

import numpy as np

from monkeylib.data.layouts import MME_COGNITION, MME_PERCEPTION
from monkeylib.evaluation.metrics.text import Answers, Meta, check, wanted

_TASKS = (*MME_PERCEPTION, *MME_COGNITION)
_COLUMNS = 4  # right questions, questions, images with both right, images
_READ = 4  # letters at the start in which the official script looks for yes or no


def said(prediction: str) -> str:
    """What was answered, "yes", "no" or "other": by its first four letters, as the official script does."""
    start = prediction.strip().lower()[:_READ]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def right(prediction: str, answers: Answers) -> float:
    """1 where yes or no was said as it should, else 0.

    Raises:
        ValueError: the answer is neither yes nor no, or there are several.
    """
    golds = check(prediction, answers)
    gold = golds[0].strip().lower()
    if len(golds) > 1 or gold not in ("yes", "no"):
        raise ValueError(f"An answer of MME is either yes or no: got {answers!r:.60}.")
    return float(said(prediction) == gold)


def table(
    predictions: Sequence[str], answers: Sequence[Answers], metas: Sequence[Meta], images: Sequence[str]
) -> np.ndarray:
    """What the scores are sums of: `[questions, 14 tasks x 4]`.

    An image counts in the row of its first question.

    Raises:
        ValueError: a task is unknown, or an image doesn't have two questions.
    """
    rows = np.zeros((len(predictions), len(_TASKS), _COLUMNS))
    per_image: dict[tuple[int, str], list[int]] = {}
    for row, (prediction, answer) in enumerate(zip(predictions, answers, strict=True)):
        task = wanted(metas[row], "task", "the name of its task")
        if task not in _TASKS:
            raise ValueError(f"MME has no task {task!r:.60}: expected one of {', '.join(_TASKS)}.")
        number = _TASKS.index(task)
        rows[row, number, :2] = right(prediction, answer), 1
        per_image.setdefault((number, images[row]), []).append(row)
    for (number, image), asked in per_image.items():
        if len(asked) != 2:
            raise ValueError(
                f"MME asks two questions about each image, and both are needed: {image} has {len(asked)}."
            )
        rows[asked[0], number, 2:] = rows[asked, number, 0].all(), 1
    return rows.reshape(len(predictions), -1)


def perception(totals: np.ndarray) -> np.ndarray:
    """Perception score from sums of `table`, `[..., 56]` -> `[...]`, 0 to 20."""
    return _score(totals, MME_PERCEPTION)


def cognition(totals: np.ndarray) -> np.ndarray:
    """Cognition score from sums of `table`, `[..., 56]` -> `[...]`, 0 to 8."""
    return _score(totals, MME_COGNITION)


def _score(totals: np.ndarray, tasks: Sequence[str]) -> np.ndarray:
    """Accuracy plus accuracy+ of the tasks; one without questions adds nothing."""
    sums = np.asarray(totals, dtype=float).reshape(*np.shape(totals)[:-1], len(_TASKS), _COLUMNS)
    sums = sums[..., [_TASKS.index(task) for task in tasks], :]
    shares = np.divide(
        sums[..., 0::2], sums[..., 1::2], out=np.zeros_like(sums[..., 0::2]), where=sums[..., 1::2] > 0
    )
    return shares.sum(axis=(-2, -1))


def missing(metas: Sequence[Meta], tasks: Sequence[str]) -> list[str]:
    """Those of the tasks that no question belongs to: without them a sum over tasks is no score."""
    there = {meta.get("task") for meta in metas}
    return [task for task in tasks if task not in there]
