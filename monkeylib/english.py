"""Nouns, lists and sentences in plain English."""

from collections.abc import Sequence

_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
_PLURALS = {"person": "people", "sheep": "sheep", "skis": "skis", "scissors": "scissors", "mouse": "mice"}
_COUNTED_ALREADY = ("a", "an", "the", "two", "three", "some", "several")


def sentence(text: str) -> str:
    """The text with a capital first and a full stop last."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def listed(parts: Sequence[str]) -> str:
    """ "a, b and c" of at least one part."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def counted(noun: str, count: int) -> str:
    """A noun with its article or number; a text that has one already ("a man with a hat") stays as it is."""
    first = noun.split()[0]
    if first in _COUNTED_ALREADY or first.isdigit():
        return noun
    if count == 1:
        vowel = noun[0].lower() in "aeiou"
        return noun if noun in ("skis", "scissors") else f"{'an' if vowel else 'a'} {noun}"
    plural = _PLURALS.get(noun) or noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")
    if noun.endswith("knife"):
        plural = noun[:-2] + "ves"
    return f"{_NUMBERS.get(count, 'many')} {plural}"
