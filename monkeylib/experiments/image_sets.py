"""Scores of models on three sets of test images: the usual ones, fresh ones, and ones unlike training.

Settings were chosen on validation images, but the usual test images have been seen many times since. Fresh
ones, which only shipped models are scored on, show whether that has flattered the scores; images with other
typefaces, photographs, rotations and compression (`data.synthetic.transfer`) show how far the models reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from monkeylib.data import synthetic
from monkeylib.data.synthetic import Sample, make_sample
from monkeylib.data.synthetic.transfer import make_transfer_sample
from monkeylib.evaluation.benchmarks import nano_example
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.likelihood import score_answers
from monkeylib.evaluation.statistics import Interval, difference_interval, mean_interval
from monkeylib.experiments.origin import origin
from monkeylib.monkey import Monkey
from monkeylib.tables import Row

# Number of the first fresh image. Test sets and the sample images have lower numbers.
FIRST_FRESH = 1_000_000

ALL = "all"
LIKE_TRAINING = ("test", "fresh")  # the sets whose images are drawn as those of training are


def _make_fresh_sample(number: int, size: tuple[int, int]) -> Sample:
    return make_sample(FIRST_FRESH + number, "test", size)


_MAKE: dict[str, Callable[..., Sample]] = {
    "test": partial(make_sample, split="test"),
    "fresh": _make_fresh_sample,
    "transfer": make_transfer_sample,
}


class _Scores(NamedTuple):
    exact: np.ndarray  # [questions]
    log_likelihood: np.ndarray  # [questions]


def compare_on_image_sets(
    models: Mapping[str, Monkey], counts: Mapping[str, int], size: tuple[int, int] = (192, 192)
) -> list[Row]:
    """Score models on all sets, and the difference of the last model to the first one.

    Args:
        models: by name; each sees an image as its processor says.
        counts: questions of each split and set.
        size: width and height of the images in pixels.

    Returns:
        Rows of `images` (test, fresh, transfer), `change` (how images of transfer differ; "all" of them),
        `split`, `metric` ("exact match", or "log-likelihood" in nats per character), `model` (or "last -
        first"), `value` with its 95 % interval from `low` to `high`, the number `n` of questions, and the
        `origin`.
    """
    rows: list[Row] = []
    for images in _MAKE:
        for split, count in counts.items():
            questions = make_questions(images, split, count, size)
            examples = [nano_example(question) for question in questions]
            scores = {name: _Scores(*_score(model, examples)) for name, model in models.items()}

            changes = [question.sample.change for question in questions]
            for change in (ALL, *sorted(set(changes) - {""})):
                members = [number for number, other in enumerate(changes) if change in (ALL, other)]
                clusters = [examples[number].image_key for number in members]
                key = {"images": images, "change": change, "split": split}
                rows += [{**key, **row} for row in _rows(scores, members, clusters)]
    made = origin()
    return [row | made for row in rows]


def make_questions(
    images: str, split: str, count: int, size: tuple[int, int]
) -> list[synthetic.TestQuestion]:
    """Return questions of a split ("fine", "large", "general") about a set of images."""
    return synthetic.make_test_set(split, count, make=partial(_MAKE[images], size=size))


def _score(model: Monkey, examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
    scores = score_answers(model, examples)
    return scores.exact.astype(float), scores.log_likelihood


def _rows(scores: Mapping[str, _Scores], members: Sequence[int], clusters: Sequence[str]) -> list[Row]:
    """Return a row for each model and metric, and one for the difference of the last to the first model."""
    first, *_, last = scores
    rows: list[Row] = []
    for metric, column, is_share in (("exact match", 0, True), ("log-likelihood", 1, False)):
        values = {name: of_model[column][members] for name, of_model in scores.items()}
        for name, numbers in values.items():
            interval = mean_interval(numbers, clusters=clusters, is_share=is_share)
            rows.append(_row(metric, name, interval))

        interval = difference_interval(values[last] - values[first], clusters=clusters, is_share=is_share)
        rows.append(_row(metric, f"{last} - {first}", interval))
    return rows


def _row(metric: str, model: str, interval: Interval) -> Row:
    value, low, high, n = interval
    return {"metric": metric, "model": model, "value": value, "low": low, "high": high, "n": n}
