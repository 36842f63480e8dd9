"""MME's scores (Fu et al., 2023): two yes-or-no questions about every image, in 14 tasks.

    accuracy  = correct questions / questions
    accuracy+ = images with both questions correct / images
    score of a task = accuracy + accuracy+

Perception is the sum over ten tasks, cognition over four. Scores are shares here, as all others are: times
100 they are MME's, with 2000 and 800 at most. Answering by chance gives an accuracy of 50 % and an accuracy+
of 25 %.
"""

from collections.abc import Callable, Sequence

import numpy as np

from monkeylib.data.layouts import MME_COGNITION, MME_PERCEPTION
from monkeylib.evaluation.metrics.text import Answers, Meta, check_answers, require_meta

_TASKS = (*MME_PERCEPTION, *MME_COGNITION)
_COUNTS = 4  # correct questions, questions, images with both correct, images
_LETTERS_READ = 4


def parse_yes_no(prediction: str) -> str:
    """Return "yes", "no" or "other", read from the first four letters as the official script does.

    "The answer is yes." and "**Yes**" are therefore other.
    """
    return _read_start(prediction.strip().lower())


def _read_start(text: str) -> str:
    start = text[:_LETTERS_READ]

    # Anywhere among the four letters: "(no)" counts, too.
    if "yes" in start:
        return "yes"
    return "no" if "no" in start else "other"


def parse_yes_no_lmms_eval(prediction: str) -> str:
    """Return "yes", "no" or "other" as lmms-eval reads it: "y" and "n" count, and full stops are left out."""
    text = prediction.lower().strip().replace(".", "")
    return {"y": "yes", "n": "no"}.get(text) or _read_start(text)


def yes_no_accuracy(prediction: str, answers: Answers, parse: Callable[[str], str] = parse_yes_no) -> float:
    """Return 1 if the prediction says yes or no as the answer does, else 0.

    Args:
        prediction: the model's answer.
        answers: "yes" or "no".
        parse: how the prediction is read.

    Raises:
        ValueError: the answer is neither yes nor no, or there are several.
    """
    accepted = check_answers(prediction, answers)
    answer = accepted[0].strip().lower()
    if len(accepted) > 1 or answer not in ("yes", "no"):
        raise ValueError(f"An answer of MME is either yes or no: got {answers!r:.60}.")
    return float(parse(prediction) == answer)


def count_corpus(
    predictions: Sequence[str],
    answers: Sequence[Answers],
    metas: Sequence[Meta],
    images: Sequence[str],
    parse: Callable[[str], str] = parse_yes_no,
) -> np.ndarray:
    """Return the counts whose sums make the scores, `[questions, 14 tasks x 4]`.

    The four counts of a task are its correct questions, questions, images with both questions correct, and
    images; an image counts in the row of its first question.

    Raises:
        ValueError: a task is unknown, or an image doesn't have two questions.
    """
    counts = np.zeros((len(predictions), len(_TASKS), _COUNTS))
    rows_of_image: dict[tuple[int, str], list[int]] = {}

    # Accuracy: every question in the columns of its task.
    for row, (prediction, answer) in enumerate(zip(predictions, answers, strict=True)):
        name = require_meta(metas[row], "task", "the name of its task")
        if name not in _TASKS:
            raise ValueError(f"MME has no task {name!r:.60}: expected one of {', '.join(_TASKS)}.")

        task = _TASKS.index(name)
        counts[row, task, 0] = yes_no_accuracy(prediction, answer, parse)
        counts[row, task, 1] = 1
        rows_of_image.setdefault((task, images[row]), []).append(row)

    # Accuracy+: every image, by both of its questions.
    for (task, image), rows in rows_of_image.items():
        if len(rows) != 2:
            raise ValueError(
                f"MME asks two questions about each image, and both are needed: {image} has {len(rows)}."
            )
        counts[rows[0], task, 2] = counts[rows, task, 0].all()
        counts[rows[0], task, 3] = 1

    return counts.reshape(len(predictions), -1)


def perception(counts: np.ndarray) -> np.ndarray:
    """Return the perception score from sums of `count_corpus`, `[..., 56]` -> `[...]`, 0 to 20."""
    return _sum_over_tasks(counts, MME_PERCEPTION)


def cognition(counts: np.ndarray) -> np.ndarray:
    """Return the cognition score from sums of `count_corpus`, `[..., 56]` -> `[...]`, 0 to 8."""
    return _sum_over_tasks(counts, MME_COGNITION)


def _sum_over_tasks(counts: np.ndarray, tasks: Sequence[str]) -> np.ndarray:
    """Sum accuracy and accuracy+ over tasks; a task without questions adds nothing."""
    # [..., 14 tasks, 4 counts]
    sums = np.asarray(counts, dtype=float).reshape(*np.shape(counts)[:-1], len(_TASKS), _COUNTS)
    sums = sums[..., [_TASKS.index(task) for task in tasks], :]

    # [..., tasks, 2]: questions and images
    correct = sums[..., 0::2]
    total = sums[..., 1::2]
    shares = np.divide(correct, total, out=np.zeros_like(correct), where=total > 0)
    return shares.sum(axis=(-2, -1))


def missing_tasks(metas: Sequence[Meta], tasks: Sequence[str]) -> list[str]:
    """Return the tasks that have no question; without them, a sum over tasks is no score."""
    present = {meta.get("task") for meta in metas}

    return [task for task in tasks if task not in present]
