"""Denotation accuracy of WikiTableQuestions: an answer is a set of strings, numbers and dates.

The rules are those of the official evaluator (Pasupat and Liang, ACL 2015) as DUE applies it: both sides are
plain text, and "|" separates several values of a prediction. The official evaluator also knows, for each
ground-truth value, the number or date that CoreNLP reads in it; those files aren't part of DUE, nor used
here.
"""

import math
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from monkeylib.evaluation.metrics.text import Answers, check_answers

SEPARATOR = "|"

_SAME_CHARACTERS = str.maketrans(
    {**dict.fromkeys("‘’´`", "'"), **dict.fromkeys("“”", '"'), **dict.fromkeys("‐‑‒–—−", "-")}
)
_FOOTNOTE_MARKS = "•♦†‡*#+"
_TOLERANCE = 1e-6

Date = tuple[int, int, int]  # year, month, day; -1 where it isn't stated


class _Value(NamedTuple):
    key: tuple[str, str | float | Date]  # kind and content: equal values have equal keys
    text: str  # normalised


def denotation_accuracy(prediction: str, answers: Answers) -> float:
    """Return 1 if the predicted values are the answers, as sets, else 0.

    Args:
        prediction: the model's answer; "Oslo | Bergen" are two values.
        answers: all values of the correct answer, not alternatives to each other.
    """
    expected = _as_set(check_answers(prediction, answers))

    # Empty parts of "a | | b" are no values; an empty prediction is one, the empty string.
    parts = [part.strip() for part in prediction.split(SEPARATOR)]
    if len(parts) > 1:
        parts = [part for part in parts if part]
    predicted = _as_set(parts)

    if len(expected) != len(predicted):
        return 0.0
    return float(all(any(_matches(value, candidate) for candidate in predicted) for value in expected))


def _as_set(texts: Iterable[str]) -> list[_Value]:
    return list({value.key: value for value in map(_parse_value, texts)}.values())


def _parse_value(text: str) -> _Value:
    """Read a number, else a date, else take the normalised text."""
    normalised = normalise(text)

    number = _parse_number(text)
    if number is not None:
        return _Value(("number", number), normalised)

    date = _parse_date(text)
    if date is None:
        return _Value(("text", normalised), normalised)

    year, month, day = date
    if (month, day) == (-1, -1):  # a year alone is a number
        return _Value(("number", year), normalised)
    return _Value(("date", date), normalised)


def _matches(value: _Value, candidate: _Value) -> bool:
    if value.text == candidate.text:
        return True

    # Texts that differ may still be the same number or date.
    kinds = (value.key[0], candidate.key[0])
    if kinds == ("number", "number"):
        return abs(value.key[1] - candidate.key[1]) < _TOLERANCE
    return kinds == ("date", "date") and value.key == candidate.key


def _parse_number(text: str) -> float | int | None:
    """Return the finite number that a text states, as an integer if it is one up to the tolerance."""
    try:
        return int(text)
    except ValueError:
        pass

    try:
        number = float(text)
    except ValueError:
        return None

    if not math.isfinite(number):
        return None
    return round(number) if abs(number - round(number)) < _TOLERANCE else number


def _parse_date(text: str) -> Date | None:
    """Return year, month and day of "2008-03-14", with -1 for what "xx" leaves open."""
    parts = text.lower().split("-")
    if len(parts) != 3:
        return None

    try:
        year = -1 if parts[0] in ("xx", "xxxx") else int(parts[0])
        month = -1 if parts[1] == "xx" else int(parts[1])
        day = -1 if parts[2] == "xx" else int(parts[2])
    except ValueError:
        return None

    valid = (month == -1 or 1 <= month <= 12) and (day == -1 or 1 <= day <= 31)
    return (year, month, day) if valid and (year, month, day) != (-1, -1, -1) else None


def normalise(text: str) -> str:
    """Normalise a string as the official evaluator does before it compares.

    Accents go first, then, as often as they occur, trailing citations ("[1]", "†"), trailing remarks in
    brackets and outer quotation marks; last one closing full stop, case and repeated blanks.
    """
    # After decomposition, accents are separate characters, of the category Mn.
    text = unicodedata.normalize("NFKD", text)
    text = "".join(character for character in text if unicodedata.category(character) != "Mn")
    text = text.translate(_SAME_CHARACTERS)

    # Until nothing changes, since a citation may stand behind a remark or the other way round.
    previous = None
    while text != previous:
        previous = text
        text = _cut_remarks(_cut_citations(text.strip())).strip()
        # Only quotation marks around all of the text.
        if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1]:
            text = text[1:-1]

    return " ".join(text.removesuffix(".").lower().split())


def _cut_citations(text: str) -> str:
    """Cut footnote marks and square brackets off the end.

    A text that is nothing but a bracket stays, unless it holds a number.
    """
    while text:
        if text[-1] in _FOOTNOTE_MARKS:
            text = text[:-1]
            continue

        start = -1
        if text[-1] == "]":
            # The bracket that opens after the last one that was closed before this end.
            start = text.find("[", text.rfind("]", 0, -1) + 1)
            if start == 0 and not text[1:-1].isdecimal():
                start = text.find("[", 1)

        if start < 0:
            return text
        text = text[:start]

    return text


def _cut_remarks(text: str) -> str:
    """Cut " (...)" off the end, as often as it occurs."""
    text = text.strip()
    while text.endswith(")"):
        # The bracket that opens after the last one that was closed before this end.
        start = text.find(" (", text.rfind(")", 0, -1) + 1)
        if start <= 0:
            return text
        text = text[:start]

    return text
