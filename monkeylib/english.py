"""Plain English for captions: plurals, articles and lists."""

from collections.abc import Sequence

_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
_PLURALS = {"person": "people", "sheep": "sheep", "skis": "skis", "scissors": "scissors", "mouse": "mice"}
_PLURAL_ONLY = ("skis", "scissors")
_DETERMINERS = ("a", "an", "the", "two", "three", "some", "several")


def as_sentence(text: str) -> str:
    """Return the text with a capital first letter and a full stop."""
    text = text.strip()
    stop = "" if text.endswith((".", "!", "?")) else "."
    return text[:1].upper() + text[1:] + stop


def join_with_and(parts: Sequence[str]) -> str:
    """Join at least one part: "a, b and c"."""
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def with_count(noun: str, count: int) -> str:
    """Return a noun with its article or number: "a dog", "three dogs", "many dogs".

    A noun that has either already ("a man with a hat") is returned unchanged.
    """
    first = noun.split()[0]
    if first in _DETERMINERS or first.isdigit():
        return noun

    if count == 1:
        if noun in _PLURAL_ONLY:
            return noun
        article = "an" if noun[0].lower() in "aeiou" else "a"
        return f"{article} {noun}"

    return f"{_NUMBERS.get(count, 'many')} {_plural(noun)}"


def _plural(noun: str) -> str:
    if noun in _PLURALS:
        return _PLURALS[noun]
    if noun.endswith("knife"):
        return noun[:-2] + "ves"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")
