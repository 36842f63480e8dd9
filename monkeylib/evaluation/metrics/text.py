"""Scores of one answer beside those that are accepted, as pure functions of strings.

Every function raises `ValueError` on input that has no score: a prediction that isn't a string, an example
without answers.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from monkeylib.evaluation.metrics import cider

Answers = Sequence[str] | str
Meta = Mapping[str, Any]


def check(prediction: str, answers: Answers) -> list[str]:
    """The answers as a list; a lone string is one answer.

    Raises:
        ValueError: the prediction or an answer isn't a string, or there is no answer.
    """
    if not isinstance(prediction, str):
        raise ValueError(
            f"A prediction must be a string: got {type(prediction).__name__} ({prediction!r:.60})."
        )
    listed = [answers] if isinstance(answers, str) else answers
    if not isinstance(listed, Sequence) or not listed:
        raise ValueError(f"An example needs a non-empty list of answers: got {answers!r:.60}.")
    for answer in listed:
        if not isinstance(answer, str):
            raise ValueError(f"An answer must be a string: got {type(answer).__name__} ({answer!r:.60}).")
    return list(listed)


def wanted(meta: Meta | None, key: str, why: str) -> Any:
    """An entry of an example's `meta` that a metric can't do without; `why` says what it is for.

    Raises:
        ValueError: it isn't there.
    """
    if not isinstance(meta, Mapping) or key not in meta:
        raise ValueError(f"This metric needs the entry {key!r} of each example's meta, {why}: it is missing.")
    return meta[key]


# Contractions of the VQA evaluation rules. A prediction written without the apostrophe gets it back
# ("dont" -> "don't"); "its" and "lets" are words of their own and stay.
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've
mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've
somebody'd somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd
something'd've something'll that'd that'd've that's there'd there'd've there're there's they'd they'd've
they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd
where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


def _restorations() -> dict[str, str]:
    """Map every spelling with one or all apostrophes left out to the contraction."""
    found: dict[str, str] = {}
    for word in _CONTRACTED:
        for place, letter in enumerate(word):
            if letter == "'":
                found[word[:place] + word[place + 1 :]] = word
        found[word.replace("'", "")] = word
    return found


_RESTORED = _restorations()


def plain(text: str) -> str:
    """Normalise for exact match: Unicode case folded, blanks collapsed, one closing full stop dropped."""
    folded = " ".join(text.split()).casefold()
    return folded[:-1].rstrip() if len(folded) > 1 and folded.endswith(".") else folded


def vqa_punctuation(text: str, periods: int = 0) -> str:
    """First half of the VQA rules: a mark next to a blank disappears, elsewhere it becomes a blank.

    All marks disappear when the text has a comma between digits ("1,000" -> "1000"); a period stays only
    before a digit. `periods` limits how many are taken out (0: all of them).
    """
    thousands = _DIGIT_COMMA_DIGIT.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        removed = thousands or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if removed else " ")
    return _PERIOD.sub("", result, count=periods)


def vqa_words(text: str) -> str:
    """Second half of the VQA rules: lower case, number words to digits, articles out, apostrophes back."""
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_RESTORED.get(word, word) for word in words if word not in _ARTICLES)


def vqa(text: str) -> str:
    """Normalise by the rules of the official VQA evaluation (both halves)."""
    return vqa_words(vqa_punctuation(text.replace("\n", " ").replace("\t", " ").strip()))


ANLS_THRESHOLD = 0.5
RELAXED_TOLERANCE = 0.05
VQA_MINIMUM_ANNOTATORS = 4


def exact_match(prediction: str, answers: Answers) -> float:
    """1 where the prediction equals an answer up to case, blanks and a closing full stop, else 0."""
    accepted = {plain(answer) for answer in check(prediction, answers)}
    return float(plain(prediction) in accepted)


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
    theirs = [vqa(answer) for answer in check(prediction, answers)]
    if len(theirs) < VQA_MINIMUM_ANNOTATORS:
        raise ValueError(
            f"VQA accuracy needs at least {VQA_MINIMUM_ANNOTATORS} annotators' answers, usually 10: got "
            f"{len(theirs)}; with one agreed answer use exact_match."
        )
    agreeing = theirs.count(vqa(prediction))
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


# "B", "(B)", "B.", "answer: B", "the answer is (B)", and a letter with a mark before the choice's text.
_ALONE = re.compile(r"\s*(?:(?:the\s+)?(?:correct\s+)?answer(?:\s+is)?\s*:?\s*)?\(?([a-z])\)?[.:)]?\s*", re.I)
_LEADING = re.compile(r"\s*\(?([A-Z])[.:)]\s*\S")
_SAID = re.compile(r"\banswer(?:\s+is)?\s*:?\s*\(?([A-Z])\b(?!')")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def chosen(prediction: str, choices: Sequence[str]) -> int | None:
    """Number of the choice that an answer means, None where it names none, or several.

    The rules, the first that applies: the text of a choice; its letter alone ("B", "(B)", "the answer is
    B"); a letter with a mark before more text ("B. the eye"); a letter said to be the answer in a sentence;
    the one choice whose text occurs in the answer as whole words (of two that overlap, the longer one). So a
    choice that is itself a letter, as in AI2D's labelled diagrams, is taken by its text. The official
    ScienceQA evaluation reads the letter of "The answer is B."; nothing is guessed where nothing is found.

    Raises:
        ValueError: a prediction that isn't a string, or no choices.
    """
    texts = [plain(choice) for choice in check(prediction, choices)]
    said = plain(prediction)
    if said in texts:
        return texts.index(said)
    for found in (_ALONE.fullmatch(prediction), _LEADING.match(prediction), _SAID.search(prediction)):
        if found and (number := _LETTERS.index(found[1].upper())) < len(texts):
            return number
    return _named(said, texts)


def _named(said: str, texts: Sequence[str]) -> int | None:
    """The one choice that occurs in the text as whole words and not only inside a longer choice."""
    left = said
    named = []
    for number in sorted(range(len(texts)), key=lambda n: -len(texts[n])):
        whole = rf"(?<!\w){re.escape(texts[number])}(?!\w)"
        if texts[number] and re.search(whole, left):
            named.append(number)
            left = re.sub(whole, "\0", left)
    return named[0] if len(named) == 1 else None


def multiple_choice(prediction: str, answers: Answers, meta: Meta | None) -> float:
    """1 where the prediction means the right choice, or one of the same text, else 0.

    Args:
        prediction: the model's answer, a letter or a text.
        answers: the text of the right choice.
        meta: `choices`, their texts in the order of their letters, and `answer`, the right one's number.

    Raises:
        ValueError: `meta` lacks an entry, or the right number is no choice's.
    """
    check(prediction, answers)
    options = wanted(meta, "choices", "the texts to choose from")
    right = wanted(meta, "answer", "the number of the right choice, from 0")
    if isinstance(options, str) or not isinstance(options, Sequence):
        raise ValueError(f"The choices must be a list of texts: got {options!r:.60}.")
    if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(options):
        raise ValueError(
            f"The right choice must be a number from 0 to {len(options) - 1}: got {right!r:.60}."
        )
    found = chosen(prediction, options)
    return float(found is not None and plain(options[found]) == plain(options[right]))
