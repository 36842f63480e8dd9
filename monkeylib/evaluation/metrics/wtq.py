"""Denotation accuracy of WikiTableQuestions: an answer is a set of strings, numbers and dates.

The official evaluator (Pasupat and Liang, ACL 2015) knows for each correct value the number or date that
CoreNLP read in it, its canonical form: "100,000" is the number 100000, "17 years" is 17, and "January 26,
1995" is 1995-01-26. The forms are the column `targetCanon` of the official files `tagged/data/*.tagged`. DUE
compares plain texts by the same rules, since its download has no canonical forms. "|" separates several
values of a prediction.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from monkeylib.evaluation.metrics.text import Answers, Meta, check_answers

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


def denotation_accuracy(prediction: str, answers: Answers, meta: Meta | None = None) -> float:
    """Return 1 if the predicted values are the answers, as sets, else 0, as the official evaluator does.

    Args:
        prediction: the model's answer; "Oslo | Bergen" are two values.
        answers: all values of the correct answer, not alternatives to each other.
        meta: `canonical`, the official canonical form of each answer ("17.0", "1995-01-26"; the text itself
            where it is neither number nor date). Where it is missing, `derive_canonical` reads what is plain.

    Raises:
        ValueError: the number of canonical forms is not that of answers.
    """
    accepted = check_answers(prediction, answers)
    canonical = (meta or {}).get("canonical")
    if canonical is None:
        canonical = [derive_canonical(answer) for answer in accepted]

    if isinstance(canonical, str) or len(canonical) != len(accepted):
        raise ValueError(
            f"Expected a canonical form for each of the {len(accepted)} answers: got {canonical!r:.60}."
        )
    return _compare(prediction, accepted, canonical)


def denotation_accuracy_due(prediction: str, answers: Answers) -> float:
    """Return the denotation accuracy of DUE, which compares the answers as they are written."""
    accepted = check_answers(prediction, answers)
    return _compare(prediction, accepted, accepted)


def _compare(prediction: str, answers: Sequence[str], canonical: Sequence[str]) -> float:
    expected = _as_set(map(_parse_value, answers, canonical))

    # Empty parts of "a | | b" are no values; an empty prediction is one, the empty string.
    parts = [part.strip() for part in prediction.split(SEPARATOR)]
    if len(parts) > 1:
        parts = [part for part in parts if part]
    predicted = _as_set(map(_parse_value, parts, parts))

    if len(expected) != len(predicted):
        return 0.0
    return float(all(any(_matches(value, candidate) for candidate in predicted) for value in expected))


def _as_set(values: Iterable[_Value]) -> list[_Value]:
    return list({value.key: value for value in values}.values())


def _parse_value(text: str, canonical: str) -> _Value:
    """Read a number, else a date, from the canonical form, else take the normalised text."""
    normalised = normalise(text)

    number = _parse_number(canonical)
    if number is not None:
        return _Value(("number", number), normalised)

    date = _parse_date(canonical)
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


_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_DURATION = re.compile(r"(\d+(?:\.\d+)?) (?:year|month|week|day|hour|minute|second)s?")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_ENGLISH_DATES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_MONTH} (?P<day>\d\d?)(?:, ?| )(?P<year>\d{{4}})",  # January 26, 1995
        rf"(?P<day>\d\d?) {_MONTH},? (?P<year>\d{{4}})",  # 26 January 1995
        rf"{_MONTH},? (?P<year>\d{{4}})",  # January 1995
        rf"{_MONTH} (?P<day>\d\d?)",  # January 26
        rf"(?P<day>\d\d?) {_MONTH}",  # 26 January
    )
)


def derive_canonical(text: str) -> str:
    """Return the number or date that an answer states plainly, in canonical form, else the answer itself.

    "100,000" -> "100000", "17 years" -> "17", "January 26, 1995" -> "1995-01-26", "May 1995" -> "1995-05-xx".
    A substitute for the official canonical forms, which come from CoreNLP: other units and ways to write
    numbers stay text.
    """
    plain = " ".join(text.split())
    if _GROUPED.fullmatch(plain):
        return plain.replace(",", "")
    if match := _DURATION.fullmatch(plain.lower()):
        return match[1]

    for date in _ENGLISH_DATES:
        if match := date.fullmatch(plain.lower()):
            parts = {"year": "xx", "day": "xx"} | match.groupdict()
            month = _MONTHS.index(parts["month"][:3]) + 1
            return f"{parts['year']}-{month:02}-{parts['day'].rjust(2, '0')}"

    return text


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
