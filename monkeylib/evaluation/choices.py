"""Which of several choices an answer in free text means."""

import re
from collections.abc import Sequence

from monkeylib.evaluation.inputs import Answers, Meta, check, wanted
from monkeylib.evaluation.normalise import plain

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
