"""Denotation accuracy of WikiTableQuestions: an answer is a set of strings, numbers and dates.

The rules are those of the official evaluator (Pasupat and Liang, ACL 2015) as DUE applies it: both sides are
plain text, of which a prediction separates several values by "|". The official evaluator also knows, for each
gold value, the number or date that CoreNLP reads in it; those files aren't part of DUE, nor used here.
"""

import math
import unicodedata
from typing import NamedTuple

from monkeylib.evaluation.metrics.text import Answers, check

SEPARATOR = "|"
_ALIKE = str.maketrans(
    {**dict.fromkeys("‘’´`", "'"), **dict.fromkeys("“”", '"'), **dict.fromkeys("‐‑‒–—−", "-")}
)
_MARKS = "•♦†‡*#+"
_CLOSE = 1e-6


class _Value(NamedTuple):
    key: tuple[str, str | float | tuple[int, int, int]]  # what two equal values share
    text: str  # normalised


def normalised(text: str) -> str:
    """A string as the evaluator compares it.

    Without accents, trailing citations ("[1]", "†"), trailing remarks in brackets and outer quotation marks,
    all of them as often as they come; then without one closing full stop, in lower case, blanks collapsed.
    """
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(letter for letter in plain if unicodedata.category(letter) != "Mn").translate(_ALIKE)
    before = None
    while plain != before:
        before = plain
        plain = _without_remarks(_without_notes(plain.strip())).strip()
        if len(plain) > 1 and plain[0] == plain[-1] == '"' and '"' not in plain[1:-1]:
            plain = plain[1:-1]
    plain = plain.removesuffix(".")
    return " ".join(plain.lower().split())


def _without_notes(text: str) -> str:
    """Cut marks and square brackets off the end; a bracket that is all there is stays, unless a number."""
    while text:
        if text[-1] in _MARKS:
            text = text[:-1]
            continue
        start = -1
        if text[-1] == "]":
            start = text.find("[", text.rfind("]", 0, -1) + 1)
            if start == 0 and not text[1:-1].isdecimal():
                start = text.find("[", 1)
        if start < 0:
            return text
        text = text[:start]
    return text


def _without_remarks(text: str) -> str:
    """Cut " (...)" off the end, as often as it comes."""
    text = text.strip()
    while text.endswith(")") and (start := text.find(" (", text.rfind(")", 0, -1) + 1)) > 0:
        text = text[:start]
    return text


def _number(text: str) -> float | int | None:
    try:
        amount: float | int = int(text)
    except ValueError:
        try:
            amount = float(text)
        except ValueError:
            return None
        if not math.isfinite(amount):
            return None
        if abs(amount - round(amount)) < _CLOSE:
            amount = round(amount)
    return amount


def _date(text: str) -> tuple[int, int, int] | None:
    """Year, month and day of "2008-03-14", with -1 for what "xx" leaves open."""
    parts = text.lower().split("-")
    if len(parts) != 3:
        return None
    try:
        year = -1 if parts[0] in ("xx", "xxxx") else int(parts[0])
        month, day = (-1 if part == "xx" else int(part) for part in parts[1:])
    except ValueError:
        return None
    valid = (month == -1 or 1 <= month <= 12) and (day == -1 or 1 <= day <= 31)
    return (year, month, day) if valid and (year, month, day) != (-1, -1, -1) else None


def _value(text: str) -> _Value:
    plain = normalised(text)
    amount = _number(text)
    if amount is None and (date := _date(text)) is not None:
        if date[1:] != (-1, -1):
            return _Value(("date", date), plain)
        amount = date[0]  # a year alone is a number
    return _Value(("text", plain) if amount is None else ("number", amount), plain)


def _matches(one: _Value, other: _Value) -> bool:
    if one.text == other.text:
        return True
    kinds = (one.key[0], other.key[0])
    if kinds == ("number", "number"):
        return abs(one.key[1] - other.key[1]) < _CLOSE
    return kinds == ("date", "date") and one.key == other.key


def denotation_accuracy(prediction: str, answers: Answers) -> float:
    """1 where the predicted values are the answers, as sets, else 0.

    Args:
        prediction: the model's answer; "Oslo | Bergen" are two values.
        answers: all values of the right answer, not alternatives to each other.
    """
    gold = {value.key: value for value in map(_value, check(prediction, answers))}
    said = [part.strip() for part in prediction.split(SEPARATOR)]
    ours = {value.key: value for value in map(_value, (part for part in said if part or len(said) == 1))}
    if len(gold) != len(ours):
        return 0.0
    return float(all(any(_matches(value, own) for own in ours.values()) for value in gold.values()))
