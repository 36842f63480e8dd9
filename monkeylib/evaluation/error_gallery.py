"""The questions that a model answered worst."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rapidfuzz.distance import Levenshtein

from monkeylib.evaluation import results
from monkeylib.evaluation.examples import Prediction, read_predictions
from monkeylib.evaluation.metrics import registry

_RIGHT = 1.0


@dataclass(frozen=True)
class Mistake:
    """An answer with its score."""

    asked: Prediction
    metric: str
    score: float


def worst(predictions: results.Predictions, metric: str, count: int, *, per_image: int = 1) -> list[Mistake]:
    """The answers with the worst scores, the worst first.

    Of equal scores, those come first whose letters are least like an accepted answer. Right answers (1, or
    0 where lower is better) are none.

    Args:
        predictions: a predictions file, or what `read_predictions` gave.
        metric: a name of `metrics.METRICS`.
        count: how many at most.
        per_image: how many of one image at most.

    Raises:
        ValueError: nothing to score, or no such metric.
    """
    rows = read_predictions(predictions) if isinstance(predictions, Path | str) else predictions
    scores = results.scores_by_id(rows, metric)
    upward = registry.get(metric).higher_is_better
    wrong = [row for row in rows if (scores[row.id] < _RIGHT if upward else scores[row.id] > 0)]
    sign = 1 if upward else -1
    wrong.sort(key=lambda row: (sign * scores[row.id], _likeness(row), row.id))
    taken: dict[str, int] = {}
    found = []
    for row in wrong:
        taken[row.image] = taken.get(row.image, 0) + 1
        if taken[row.image] <= per_image:
            found.append(Mistake(row, metric, scores[row.id]))
    return found[:count]


def _likeness(row: Prediction) -> float:
    """How much of an accepted answer the prediction has, 0 to 1, letter by letter."""
    ours = row.prediction.strip().lower()
    theirs: Sequence[str] = [answer.strip().lower() for answer in row.answers]
    return max(Levenshtein.normalized_similarity(ours, answer) for answer in theirs)
