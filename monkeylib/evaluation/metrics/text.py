"""Scores of one answer against the accepted answers, as pure functions of strings.

The parts, from top to bottom: checks of the input, normalisation, scores. Every score raises `ValueError` on
input that has none: a prediction that isn't a string, or no accepted answer. Where two official scorers
disagree, both scores exist; docs/metrics.md lists the differences.
"""

import math
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from monkeylib.evaluation.metrics import cider, ptb

Answers = Sequence[str] | str
Meta = Mapping[str, Any]

ANLS_THRESHOLD = 0.5
RELAXED_TOLERANCE = 0.05


# --- input ----------------------------------------------------------------------------------------


def check_answers(prediction: str, answers: Answers) -> list[str]:
    """Return the accepted answers as a list, after checking that prediction and answers are strings.

    Args:
        prediction: the model's answer.
        answers: accepted answers; a single string is one answer.

    Raises:
        ValueError: the prediction or an answer isn't a string, or there is no answer.
    """
    if not isinstance(prediction, str):
        raise ValueError(
            f"A prediction must be a string: got {type(prediction).__name__} ({prediction!r:.60})."
        )

    accepted = [answers] if isinstance(answers, str) else answers
    if not isinstance(accepted, Sequence) or not accepted:
        raise ValueError(f"An example needs a non-empty list of answers: got {answers!r:.60}.")
    for answer in accepted:
        if not isinstance(answer, str):
            raise ValueError(f"An answer must be a string: got {type(answer).__name__} ({answer!r:.60}).")

    return list(accepted)


def require_meta(meta: Meta | None, key: str, purpose: str) -> Any:
    """Return an entry of an example's `meta` that a metric requires.

    Raises:
        ValueError: the entry is missing; the message says what it is for.
    """
    if not isinstance(meta, Mapping) or key not in meta:
        raise ValueError(
            f"This metric needs the entry {key!r} of each example's meta, {purpose}: it is missing."
        )

    return meta[key]


# --- normalisation --------------------------------------------------------------------------------


def normalise(text: str) -> str:
    """Normalise for exact match: Unicode case folded, blanks collapsed, one closing full stop dropped."""
    # A text that is only a full stop stays.
    folded = " ".join(text.split()).casefold()
    if len(folded) > 1 and folded.endswith("."):
        folded = folded[:-1].rstrip()
    return folded


# --- scores ---------------------------------------------------------------------------------------


def exact_match(prediction: str, answers: Answers) -> float:
    """Return 1 if the prediction equals an answer up to case, blanks and a closing full stop, else 0."""
    accepted = {normalise(answer) for answer in check_answers(prediction, answers)}
    return float(normalise(prediction) in accepted)


def exact_match_verbatim(prediction: str, answers: Answers) -> float:
    """Return 1 if the prediction is an answer, character by character, as GQA's eval.py compares, else 0."""
    return float(prediction in check_answers(prediction, answers))


def exact_match_without_punctuation(prediction: str, answers: Answers) -> float:
    """Return 1 if the prediction is an answer without case and ASCII punctuation, else 0.

    So lmms-eval scores GQA. Blanks within the texts count, those around the prediction don't.
    """
    accepted = {_drop_punctuation(answer) for answer in check_answers(prediction, answers)}
    return float(_drop_punctuation(prediction.strip()) in accepted)


def _drop_punctuation(text: str) -> str:
    return text.lower().translate(str.maketrans("", "", string.punctuation))


def anls(prediction: str, answers: Answers) -> float:
    """Return the (average) normalised Levenshtein similarity, ANLS, of one example (Biten et al., ICCV 2019).

        s = max over answers a of 1 - NL(a, p),    NL(a, p) = edits(a, p) / max(|a|, |p|)
        ANLS = s if s >= 0.5 else 0

    Both strings are taken in lower case, without outer blanks, and with runs of blanks as one. A similarity
    of exactly 0.5 counts, as in the scorer of the Robust Reading Competition; `anls_paper` has the paper's
    rule.
    """
    similarity = _similarity(prediction, answers)
    return similarity if similarity >= ANLS_THRESHOLD else 0.0


def anls_paper(prediction: str, answers: Answers) -> float:
    """Return ANLS by the formula of the paper, where a similarity of exactly 0.5 scores 0."""
    similarity = _similarity(prediction, answers)
    return similarity if similarity > ANLS_THRESHOLD else 0.0


def _similarity(prediction: str, answers: Answers) -> float:
    """Return the highest normalised Levenshtein similarity to an answer."""
    accepted = [" ".join(answer.lower().split()) for answer in check_answers(prediction, answers)]
    predicted = " ".join(prediction.lower().split())
    return max(Levenshtein.normalized_similarity(predicted, answer) for answer in accepted)


def relaxed_accuracy(prediction: str, answers: Answers) -> float:
    """Return ChartQA's relaxed accuracy (Masry et al., ACL Findings 2022).

    A number p may be 5 % off the answer a, |p - a| <= 0.05 |a|; years count as numbers, and 0 needs 0.
    Anything else must be equal up to case and outer blanks.
    """
    accepted = check_answers(prediction, answers)
    predicted_number = _parse_number(prediction)

    for answer in accepted:
        number = _parse_number(answer)
        if predicted_number is not None and number is not None:
            # The small term forgives rounding of the division, so that 95 is within 5 % of 100.
            if abs(predicted_number - number) <= RELAXED_TOLERANCE * abs(number) * (1 + 1e-9):
                return 1.0
        elif prediction.strip().lower() == answer.strip().lower():
            return 1.0

    return 0.0


# A comma groups three digits; anywhere else it makes no number.
_GROUPED_NUMBER = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d*)?")


def _parse_number(text: str) -> float | None:
    """Return the finite number that a string states ("12,000", "50%" = 0.5), or None."""
    stripped = text.strip()
    digits = stripped.rstrip("%").strip()
    if "," in digits:
        if not _GROUPED_NUMBER.fullmatch(digits):
            return None
        digits = digits.replace(",", "")

    try:
        value = float(digits)
    except ValueError:
        return None

    # float() also reads "inf" and "nan".
    if not math.isfinite(value):
        return None
    return value / 100.0 if stripped.endswith("%") else value


def relaxed_accuracy_pix2struct(prediction: str, answers: Answers) -> float:
    """Return relaxed accuracy as pix2struct's metrics, and so Qwen-VL, lmms-eval and VLMEvalKit compute it.

    A number is what `float` reads, with a "%" at its end or not, so none with commas; an answer of 0 is
    compared as text. Outer blanks count in texts.
    """
    for answer in check_answers(prediction, answers):
        predicted_number = _parse_float(prediction)
        number = _parse_float(answer)

        if predicted_number is not None and number:
            if abs(predicted_number - number) / abs(number) <= RELAXED_TOLERANCE:
                return 1.0
        elif prediction.lower() == answer.lower():
            return 1.0

    return 0.0


def _parse_float(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


def character_error(prediction: str, answers: Answers) -> float:
    """Return the character error rate to the nearest answer, edits(p, a) / |a|.

    0 is perfect; it exceeds 1 where the prediction is much longer. Case counts, runs of blanks count as one.

    Raises:
        ValueError: an answer is empty.
    """
    accepted = [" ".join(answer.split()) for answer in check_answers(prediction, answers)]
    if not all(accepted):
        raise ValueError(
            "Character error is undefined for an empty answer: score such examples by exact_match."
        )

    predicted = " ".join(prediction.split())
    return min(Levenshtein.distance(predicted, answer) / len(answer) for answer in accepted)


def cider_d(predictions: Sequence[str], references: Sequence[Answers]) -> np.ndarray:
    """Return the CIDEr-D of every caption, 0 to 10, from plain strings; `cider.cider_d` takes tokens."""
    groups = [check_answers(p, group) for p, group in zip(predictions, references, strict=True)]
    return cider.cider_d(
        [ptb.tokenize_caption(prediction) for prediction in predictions],
        [[ptb.tokenize_caption(reference) for reference in group] for group in groups],
    )
