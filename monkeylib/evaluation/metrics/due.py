"""F1 of values read from documents, as DUE scores DeepForm and Kleister Charity (Borchmann et al., 2021)."""

from collections.abc import Sequence

import numpy as np

from monkeylib.evaluation.metrics.text import Answers, Meta, check_answers

SEPARATOR = "|"


def count_values(prediction: str, answers: Answers, meta: Meta | None = None) -> np.ndarray:
    """Count the values of one field of a document: `[correct, predicted, recalled, expected]`.

    Each predicted value may be correct once, and each expected one recalled once; case doesn't count. The two
    numbers of matches differ only where forms overlap.

    Args:
        prediction: the model's answer; "|" separates several values, an empty answer predicts none.
        answers: all values of the field, not alternatives to each other.
        meta: `variants`, for each value a list of other ways to write it; may be missing.

    Raises:
        ValueError: the number of lists of variants is not that of values.
    """
    values = check_answers(prediction, answers)
    variants = (meta or {}).get("variants") or [[] for _ in values]
    if len(variants) != len(values) or any(isinstance(forms, str) for forms in variants):
        raise ValueError(
            f"Expected a list of variants for each of the {len(values)} values: got {variants!r:.60}."
        )

    # A value is the set of ways in which it may be written.
    expected = [
        {_fold(form) for form in (value, *forms)} for value, forms in zip(values, variants, strict=True)
    ]

    predicted = []
    for part in prediction.split(SEPARATOR):
        folded = _fold(part)
        if folded:
            predicted.append({folded})

    # Matched from both sides: precision counts predicted values, recall expected ones.
    correct = _count_matches(predicted, expected)
    recalled = _count_matches(expected, predicted)
    return np.asarray([correct, len(predicted), recalled, len(expected)], dtype=float)


def count_corpus(predictions: Sequence[str], answers: Sequence[Answers], metas: Sequence[Meta]) -> np.ndarray:
    """Return `count_values` of every example, `[examples, 4]`."""
    return np.stack([count_values(p, a, m) for p, a, m in zip(predictions, answers, metas, strict=True)])


def f1(counts: np.ndarray) -> np.ndarray:
    """Return F1 from sums of `count_values`, `[..., 4]` -> `[...]`.

        precision = correct / predicted,    recall = recalled / expected,    F1 = 2 P R / (P + R)

    Each ratio is 0 where its denominator is.
    """
    # Columns first, [4, ...], so that they unpack.
    correct, predicted, recalled, expected = np.moveaxis(np.asarray(counts, dtype=float), -1, 0)
    precision = _ratio(correct, predicted)
    recall = _ratio(recalled, expected)
    return _ratio(2 * precision * recall, precision + recall)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _count_matches(values: Sequence[set[str]], candidates: Sequence[set[str]]) -> int:
    """Count the values that share a form with a candidate; each candidate matches only once."""
    remaining = list(candidates)
    matches = 0

    for forms in values:
        for index, candidate in enumerate(remaining):
            if forms & candidate:
                del remaining[index]
                matches += 1
                break

    return matches


def _fold(text: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"A variant must be a string: got {type(text).__name__} ({text!r:.60}).")
    return text.strip().upper()
