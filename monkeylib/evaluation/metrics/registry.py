"""Metrics by name, over whole corpora: what scores each example, and how a corpus' score is made of them.

Most are means over examples. The others (F1 over all values of all documents, MME's sums over tasks) are put
together from sums over examples, of which a bootstrap can draw. Names that begin with "release_" are the
metrics of the released evaluation, defects included (`release`); they are scored beside ours, to compare with
numbers made by it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from monkeylib.errors import choose
from monkeylib.evaluation.metrics import as_released, due, mme, text, wtq
from monkeylib.evaluation.metrics.text import (
    Answers,
    Meta,
    anls,
    character_error,
    check,
    cider_d,
    exact_match,
    relaxed_accuracy,
    vqa_accuracy,
)

__all__ = [
    "METRICS",
    "Metric",
    "Totals",
    "anls",
    "character_error",
    "cider_d",
    "exact_match",
    "get",
    "relaxed_accuracy",
    "vqa_accuracy",
]

Scores = Callable[[Sequence[str], Sequence[Answers], Sequence[Meta]], np.ndarray]


@dataclass(frozen=True)
class Totals:
    """A corpus' score that is no mean over examples.

    Attributes:
        table: what it is made of, from predictions, answers, metas and images: `[examples, columns]`.
        combine: the score from sums of such rows, `[..., columns]` -> `[...]`.
        stratum: entry of `meta` within whose values a bootstrap draws, if any.
    """

    table: Callable[[Sequence[str], Sequence[Answers], Sequence[Meta], Sequence[str]], np.ndarray]
    combine: Callable[[np.ndarray], np.ndarray]
    stratum: str | None = None


@dataclass(frozen=True)
class Metric:
    """A named score.

    Attributes:
        name: in tables on disk.
        title: in tables for readers.
        score: one number for each example; those of multiple choice, MME and F1 need the examples' `meta`.
        higher_is_better: false for errors.
        totals: how a corpus' score is made where it isn't the mean of `scores`.
    """

    name: str
    title: str
    score: Scores
    higher_is_better: bool = True
    totals: Totals | None = None

    def scores(
        self,
        predictions: Sequence[str],
        answers: Sequence[Answers],
        metas: Sequence[Meta] | None = None,
    ) -> np.ndarray:
        """One number for each example.

        Raises:
            ValueError: an example has no score, or predictions, answers and metas aren't as many.
        """
        metas = [{} for _ in predictions] if metas is None else metas
        if not len(predictions) == len(answers) == len(metas):
            raise ValueError(
                f"Each prediction needs its answers and its meta: got {len(predictions)} predictions, "
                f"{len(answers)} lists of answers and {len(metas)} metas."
            )
        return self.score(predictions, answers, metas)


def _each(function: Callable[[str, Answers], float]) -> Scores:
    def scores(predictions: Sequence[str], answers: Sequence[Answers], metas: Sequence[Meta]) -> np.ndarray:
        return np.asarray([function(p, a) for p, a in zip(predictions, answers, strict=True)], dtype=float)

    return scores


def _each_with_meta(function: Callable[[str, Answers, Meta], float]) -> Scores:
    def scores(predictions: Sequence[str], answers: Sequence[Answers], metas: Sequence[Meta]) -> np.ndarray:
        rows = zip(predictions, answers, metas, strict=True)
        return np.asarray([function(*row) for row in rows], dtype=float)

    return scores


def _released(function: Callable[[str, list[str]], float]) -> Scores:
    """The released function, with input refused on which it would crash or read a text as a list."""
    return _each(lambda prediction, answers: function(prediction, check(prediction, answers)))


def _captions(predictions: Sequence[str], answers: Sequence[Answers], metas: Sequence[Meta]) -> np.ndarray:
    return cider_d(predictions, answers)


def _fields(
    predictions: Sequence[str], answers: Sequence[Answers], metas: Sequence[Meta], images: Sequence[str]
) -> np.ndarray:
    return due.table(predictions, answers, metas)


def _mme(name: str, tasks: Sequence[str], combine: Callable[[np.ndarray], np.ndarray]) -> Metric:
    def table(
        predictions: Sequence[str], answers: Sequence[Answers], metas: Sequence[Meta], images: Sequence[str]
    ) -> np.ndarray:
        rows = mme.table(predictions, answers, metas, images)
        if missing := mme.missing(metas, tasks):
            raise ValueError(
                f"MME's {name} is a sum over {len(tasks)} tasks, and no question is of {', '.join(missing)}: "
                "answer all tasks."
            )
        return rows

    return Metric(
        f"mme_{name}", f"MME {name}", _each(mme.right), totals=Totals(table, combine, stratum="task")
    )


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("exact_match", "exact match", _each(exact_match)),
        Metric("anls", "ANLS", _each(anls)),
        Metric("relaxed_accuracy", "relaxed accuracy", _each(relaxed_accuracy)),
        Metric("vqa_accuracy", "VQA accuracy", _each(vqa_accuracy)),
        Metric("character_error", "character error", _each(character_error), higher_is_better=False),
        Metric("cider_d", "CIDEr-D", _captions),
        Metric("multiple_choice", "accuracy", _each_with_meta(text.multiple_choice)),
        Metric("denotation_accuracy", "denotation accuracy", _each(wtq.denotation_accuracy)),
        Metric(
            "f1",
            "F1",
            _each_with_meta(lambda p, a, meta: float(due.f1(due.counts(p, a, meta)))),
            totals=Totals(_fields, due.f1),
        ),
        _mme("perception", mme.MME_PERCEPTION, mme.perception),
        _mme("cognition", mme.MME_COGNITION, mme.cognition),
        Metric("release_anls", "ANLS as released", _released(as_released.anls)),
        Metric(
            "release_relaxed_accuracy",
            "relaxed accuracy as released",
            _released(as_released.relaxed_accuracy),
        ),
        Metric("release_containment", "containment as released", _released(as_released.containment)),
        Metric(
            "release_gqa_accuracy",
            "GQA accuracy as released",
            _released(lambda p, answers: max(as_released.gqa_accuracy(p, answer) for answer in answers)),
        ),
        Metric("release_vqa_score", "VQA score as released", _released(as_released.vqa_score)),
    )
}


def get(name: str) -> Metric:
    """The metric of that name; `ValueError` lists the names."""
    return METRICS[choose("metric", name, METRICS)]
