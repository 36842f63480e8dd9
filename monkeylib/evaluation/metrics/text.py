"""Scores of one answer against the accepted answers, as pure functions of strings.

The parts, from top to bottom: checks of the input, normalisation, scores of free text, multiple choice. Every
score raises `ValueError` on input that has none: a prediction that isn't a string, or no accepted answer.
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

ANLS_THRESHOLD = 0.5
RELAXED_TOLERANCE = 0.05
VQA_MINIMUM_ANNOTATORS = 4


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

# Contractions of the official VQA evaluation. A prediction without the apostrophe gets it back
# ("dont" -> "don't"); "its" and "lets" are other words and stay.
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've
mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've
somebody'd somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd
something'd've something'll that'd that'd've that's there'd there'd've there're there's they'd they'd've
they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd
where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
_NUMBER_WORDS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS_COMMA = re.compile(r"\d,\d")
_PERIOD_BEFORE_NO_DIGIT = re.compile(r"\.(?!\d)")


def _misspelt_contractions() -> dict[str, str]:
    """Map every spelling of a contraction that lacks one or all of its apostrophes to the contraction."""
    contraction_of: dict[str, str] = {}
    for word in _CONTRACTIONS:
        # "shouldn't've" may lack either apostrophe, or both.
        for index, letter in enumerate(word):
            if letter == "'":
                contraction_of[word[:index] + word[index + 1 :]] = word
        contraction_of[word.replace("'", "")] = word

    return contraction_of


_CONTRACTION_OF = _misspelt_contractions()


def normalise(text: str) -> str:
    """Normalise for exact match: Unicode case folded, blanks collapsed, one closing full stop dropped."""
    # A text that is only a full stop stays.
    folded = " ".join(text.split()).casefold()
    if len(folded) > 1 and folded.endswith("."):
        folded = folded[:-1].rstrip()
    return folded


def remove_vqa_punctuation(text: str, max_periods: int = 0) -> str:
    """Apply the first half of the VQA rules: punctuation.

    A mark next to a blank disappears, elsewhere it becomes a blank; all marks disappear from a text that has
    a comma between digits ("1,000" -> "1000"). A period stays only before a digit.

    Args:
        text: an answer.
        max_periods: number of periods that are removed at most; 0 removes all of them.
    """
    has_thousands = _THOUSANDS_COMMA.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        # Looked up in the text as it was given, as the official code does.
        next_to_blank = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if has_thousands or next_to_blank else " ")

    return _PERIOD_BEFORE_NO_DIGIT.sub("", result, count=max_periods)


def normalise_vqa_words(text: str) -> str:
    """Apply the second half of the VQA rules: lower case, digits, no articles, apostrophes put back."""
    words = [_NUMBER_WORDS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTION_OF.get(word, word) for word in words if word not in _ARTICLES)


def normalise_vqa(text: str) -> str:
    """Normalise by the rules of the official VQA evaluation."""
    one_line = text.replace("\n", " ").replace("\t", " ").strip()
    return normalise_vqa_words(remove_vqa_punctuation(one_line))


# --- scores of free text --------------------------------------------------------------------------


def exact_match(prediction: str, answers: Answers) -> float:
    """Return 1 if the prediction equals an answer up to case, blanks and a closing full stop, else 0."""
    accepted = {normalise(answer) for answer in check_answers(prediction, answers)}
    return float(normalise(prediction) in accepted)


def anls(prediction: str, answers: Answers) -> float:
    """Return the (average) normalised Levenshtein similarity, ANLS, of one example (Biten et al., ICCV 2019).

        s = max over answers a of 1 - NL(a, p),    NL(a, p) = edits(a, p) / max(|a|, |p|)
        ANLS = s if s >= 0.5 else 0

    Both strings are taken in lower case and without outer blanks.
    """
    accepted = [answer.strip().lower() for answer in check_answers(prediction, answers)]
    predicted = prediction.strip().lower()
    best = max(Levenshtein.normalized_similarity(predicted, answer) for answer in accepted)
    return best if best >= ANLS_THRESHOLD else 0.0


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


def _parse_number(text: str) -> float | None:
    """Return the finite number that a string states ("12,000", "50%" = 0.5), or None."""
    stripped = text.strip()
    digits = stripped.rstrip("%").replace(",", "")
    try:
        value = float(digits)
    except ValueError:
        return None

    # float() also reads "inf" and "nan".
    if not math.isfinite(value):
        return None
    return value / 100.0 if stripped.endswith("%") else value


def vqa_accuracy(prediction: str, answers: Answers) -> float:
    """Return the VQA accuracy (Antol et al., ICCV 2015) over the answers of n annotators.

        accuracy = 1/n  sum over annotators i of  min(1, agreeing_i / 3)

    where agreeing_i counts the annotators other than i who gave the predicted answer. With k of n agreeing,
    that is [k min(1, (k - 1) / 3) + (n - k) min(1, k / 3)] / n. Prediction and answers pass the same official
    normalisation; the released code normalises the prediction alone.

    Args:
        prediction: the model's answer.
        answers: one answer for each annotator, repeated as often as it was given (usually ten).

    Raises:
        ValueError: fewer than four annotators, with whom no prediction could reach 1.
    """
    annotated = [normalise_vqa(answer) for answer in check_answers(prediction, answers)]
    if len(annotated) < VQA_MINIMUM_ANNOTATORS:
        raise ValueError(
            f"VQA accuracy needs at least {VQA_MINIMUM_ANNOTATORS} annotators' answers, usually 10: got "
            f"{len(annotated)}; with one agreed answer use exact_match."
        )

    # Each annotator is compared with the others: one who agrees sees one agreeing answer fewer.
    agreeing = annotated.count(normalise_vqa(prediction))
    dissenting = len(annotated) - agreeing
    total = agreeing * min(1.0, (agreeing - 1) / 3) + dissenting * min(1.0, agreeing / 3)
    return total / len(annotated)


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
        [cider.tokenize_caption(prediction) for prediction in predictions],
        [[cider.tokenize_caption(reference) for reference in group] for group in groups],
    )


# --- multiple choice ------------------------------------------------------------------------------

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# "B", "(B)", "B.", "answer: B", "the answer is (B)"
_LETTER_ALONE = re.compile(
    r"\s*(?:(?:the\s+)?(?:correct\s+)?answer(?:\s+is)?\s*:?\s*)?\(?([a-z])\)?[.:)]?\s*", re.IGNORECASE
)
# "B. the eye": a letter with a mark before more text
_LETTER_FIRST = re.compile(r"\s*\(?([A-Z])[.:)]\s*\S")
# "I think the answer is B because ...", but not "the answer is A's"
_LETTER_IN_SENTENCE = re.compile(r"\banswer(?:\s+is)?\s*:?\s*\(?([A-Z])\b(?!')")


def parse_choice(prediction: str, choices: Sequence[str]) -> int | None:
    """Return the index of the choice that an answer means, None if it names none or several.

    The first rule that applies decides:

    1. the answer is the text of a choice;
    2. it is a letter alone ("B", "(B)", "the answer is B");
    3. it begins with a letter and a mark ("B. the eye");
    4. it calls a letter the answer somewhere in a sentence;
    5. it has the text of exactly one choice as whole words (of two that overlap, the longer one).

    A choice that is itself a letter, as in AI2D's labelled diagrams, is therefore taken by its text. The
    official ScienceQA evaluation reads the letter of "The answer is B."; where no rule applies, nothing is
    guessed.

    Raises:
        ValueError: the prediction isn't a string, or there are no choices.
    """
    # Rule 1: the text of a choice.
    texts = [normalise(choice) for choice in check_answers(prediction, choices)]
    answer = normalise(prediction)
    if answer in texts:
        return texts.index(answer)

    # Rules 2 to 4, in this order. A letter beyond the choices means none of them.
    matches = (
        _LETTER_ALONE.fullmatch(prediction),
        _LETTER_FIRST.match(prediction),
        _LETTER_IN_SENTENCE.search(prediction),
    )
    for match in matches:
        if match is None:
            continue
        index = _LETTERS.index(match[1].upper())
        if index < len(texts):
            return index

    # Rule 5.
    return _only_choice_within(answer, texts)


def _only_choice_within(answer: str, texts: Sequence[str]) -> int | None:
    """Return the index of the only choice that occurs in the answer as whole words."""
    remaining = answer
    named = []

    # Longest first: what a longer choice covers doesn't count for a shorter one inside it.
    for index in sorted(range(len(texts)), key=lambda i: -len(texts[i])):
        as_words = rf"(?<!\w){re.escape(texts[index])}(?!\w)"
        if texts[index] and re.search(as_words, remaining):
            named.append(index)
            remaining = re.sub(as_words, "\0", remaining)

    return named[0] if len(named) == 1 else None


def multiple_choice(prediction: str, answers: Answers, meta: Meta | None) -> float:
    """Return 1 if the prediction means the correct choice, or one with the same text, else 0.

    Args:
        prediction: the model's answer, a letter or a text.
        answers: the text of the correct choice.
        meta: `choices`, the texts in the order of their letters, and `answer`, the index of the correct one.

    Raises:
        ValueError: `meta` lacks an entry, or the index is out of range.
    """
    check_answers(prediction, answers)
    choices = require_meta(meta, "choices", "the texts to choose from")
    correct = require_meta(meta, "answer", "the number of the right choice, from 0")

    if isinstance(choices, str) or not isinstance(choices, Sequence):
        raise ValueError(f"The choices must be a list of texts: got {choices!r:.60}.")
    if not isinstance(correct, int) or isinstance(correct, bool) or not 0 <= correct < len(choices):
        raise ValueError(
            f"The right choice must be a number from 0 to {len(choices) - 1}: got {correct!r:.60}."
        )

    # By text, since two choices may have the same one.
    predicted = parse_choice(prediction, choices)
    return float(predicted is not None and normalise(choices[predicted]) == normalise(choices[correct]))
