"""Scores of one answer beside those that are accepted, as pure functions of strings.

Every function raises `ValueError` on input that has no score: a prediction that isn't a string, an example
without answers.
"""

import math
from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

from monkeylib.evaluation import cider, normalise
from monkeylib.evaluation.inputs import Answers, check

ANLS_THRESHOLD = 0.5
RELAXED_TOLERANCE = 0.05
VQA_MINIMUM_ANNOTATORS = 4


def exact_match(prediction: str, answers: Answers) -> float:
    """1 where the prediction equals an answer up to case, blanks and a closing full stop, else 0."""
    accepted = {normalise.plain(answer) for answer in check(prediction, answers)}
    return float(normalise.plain(prediction) in accepted)


def anls(prediction: str, answers: Answers) -> float:
    """Normalised Levenshtein similarity to the nearest answer, 0 below 0.5 (Biten et al., ICCV 2019).

    Case and outer blanks don't count; the distance is divided by the longer of the two stripped strings.
    """
    theirs = [answer.strip().lower() for answer in check(prediction, answers)]
    best = max(Levenshtein.normalized_similarity(prediction.strip().lower(), answer) for answer in theirs)
    return best if best >= ANLS_THRESHOLD else 0.0


def _number(text: str) -> float | None:
    """The finite number that a string states ("12,000", "50%" = 0.5), or None."""
    stripped = text.strip()
    bare = stripped.rstrip("%").replace(",", "")
    try:
        value = float(bare)
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    return value / 100.0 if stripped.endswith("%") else value


def relaxed_accuracy(prediction: str, answers: Answers) -> float:
    """ChartQA's score: a number may be 5 % off the answer, anything else must be equal up to case and blanks.

    (Masry et al., ACL Findings 2022.) The tolerance is relative to the answer, years included; 0 needs 0.
    """
    accepted = check(prediction, answers)
    ours = _number(prediction)
    for answer in accepted:
        theirs = _number(answer)
        if ours is not None and theirs is not None:
            # The small term forgives rounding of the division, so that 95 is within 5 % of 100.
            if abs(ours - theirs) <= RELAXED_TOLERANCE * abs(theirs) * (1 + 1e-9):
                return 1.0
        elif prediction.strip().lower() == answer.strip().lower():
            return 1.0
    return 0.0


def vqa_accuracy(prediction: str, answers: Answers) -> float:
    """VQA accuracy over annotators: min(1, agreeing / 3), averaged over leaving each annotator out in turn.

    (Antol et al., ICCV 2015.) Prediction and answers pass the same official normalisation; the released code
    normalises the prediction alone.

    Args:
        prediction: the model's answer.
        answers: one answer for each annotator, repeated as often as it was given (usually ten).

    Raises:
        ValueError: fewer than four annotators, with whom no prediction could reach 1.
    """
    theirs = [normalise.vqa(answer) for answer in check(prediction, answers)]
    if len(theirs) < VQA_MINIMUM_ANNOTATORS:
        raise ValueError(
            f"VQA accuracy needs at least {VQA_MINIMUM_ANNOTATORS} annotators' answers, usually 10: got "
            f"{len(theirs)}; with one agreed answer use exact_match."
        )
    agreeing = theirs.count(normalise.vqa(prediction))
    dissenting = len(theirs) - agreeing
    left_out = agreeing * min(1.0, (agreeing - 1) / 3) + dissenting * min(1.0, agreeing / 3)
    return left_out / len(theirs)


def character_error(prediction: str, answers: Answers) -> float:
    """Edits per character of the nearest answer, 0 is perfect (above 1 where the prediction is longer).

    Case counts, runs of blanks count as one.
    """
    accepted = [" ".join(answer.split()) for answer in check(prediction, answers)]
    if not all(accepted):
        raise ValueError(
            "Character error is undefined for an empty answer: score such examples by exact_match."
        )
    ours = " ".join(prediction.split())
    return min(Levenshtein.distance(ours, answer) / len(answer) for answer in accepted)


def cider_d(predictions: Sequence[str], references: Sequence[Answers]) -> np.ndarray:
    """CIDEr-D of every caption, 0 to 10, from plain strings; `cider.cider_d` takes tokens."""
    grouped = [check(p, r) for p, r in zip(predictions, references, strict=True)]
    return cider.cider_d(
        [cider.caption_tokens(prediction) for prediction in predictions],
        [[cider.caption_tokens(reference) for reference in group] for group in grouped],
    )
