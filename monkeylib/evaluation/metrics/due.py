"""F1 of values read from documents, as DUE scores DeepForm and Kleister Charity (Borchmann et al., 2021)."""

from collections.abc import Sequence

import numpy as np

from monkeylib.evaluation.metrics.text import Answers, Meta, check

SEPARATOR = "|"


def counts(prediction: str, answers: Answers, meta: Meta | None = None) -> np.ndarray:
    """`[right, predicted, found, expected]` of one field of a document: what F1 is made of.

    Each predicted value may be right once, and each expected one found once; case doesn't count.

    Args:
        prediction: the model's answer; several values are separated by "|", an empty answer predicts none.
        answers: all values of the field, not alternatives to each other.
        meta: `variants`, for each value a list of other ways to write it, may be missing.

    Raises:
        ValueError: there isn't one list of variants for each value.
    """
    values = check(prediction, answers)
    variants = (meta or {}).get("variants") or [[] for _ in values]
    if len(variants) != len(values) or any(isinstance(forms, str) for forms in variants):
        raise ValueError(
            f"Expected a list of variants for each of the {len(values)} values: got {variants!r:.60}."
        )
    expected = [
        {_folded(form) for form in (value, *forms)} for value, forms in zip(values, variants, strict=True)
    ]
    predicted = [{folded} for part in prediction.split(SEPARATOR) if (folded := _folded(part))]
    right, found = _matched(predicted, expected), _matched(expected, predicted)
    return np.asarray([right, len(predicted), found, len(expected)], dtype=float)


def f1(totals: np.ndarray) -> np.ndarray:
    """F1 from sums of `counts`, `[..., 4]` -> `[...]`; 0 where nothing is right."""
    right, predicted, found, expected = np.moveaxis(np.asarray(totals, dtype=float), -1, 0)
    precision = np.divide(right, predicted, out=np.zeros_like(right), where=predicted > 0)
    recall = np.divide(found, expected, out=np.zeros_like(found), where=expected > 0)
    both = precision + recall
    return np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)


def table(predictions: Sequence[str], answers: Sequence[Answers], metas: Sequence[Meta]) -> np.ndarray:
    """`counts` of every example, `[examples, 4]`."""
    return np.stack([counts(p, a, m) for p, a, m in zip(predictions, answers, metas, strict=True)])


def _matched(ones: Sequence[set[str]], others: Sequence[set[str]]) -> int:
    """How many of the ones share a form with another, which is then gone: the first one that is left."""
    left, matched = list(others), 0
    for one in ones:
        place = next((place for place, other in enumerate(left) if one & other), None)
        if place is not None:
            left.pop(place)
            matched += 1
    return matched


def _folded(text: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"A variant must be a string: got {type(text).__name__} ({text!r:.60}).")
    return text.strip().upper()
