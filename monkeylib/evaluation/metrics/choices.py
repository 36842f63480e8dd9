"""Accuracy of multiple choice: which choice an answer in free text means."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from monkeylib.evaluation.metrics.text import Answers, Meta, check_answers, normalise, require_meta

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# Marks around a letter: "(B)", "<B>", "'B'", "「B」", "B。"; emphasis and LaTeX are removed beforehand.
_MARKS = r"[\s.,:;!?()\[\]{}<>\"'“”‘’「」『』【】《》。、$#-]*+"
_BRACKETS = r"[\s.:()\[\]{}<>\"'“”‘’「」『』【】《》]*+"

# What may stand before a letter in an answer that says nothing else.
_LEAD_IN = r"""
    (?: (?:so|thus|hence|therefore|final|finally) [\s,:]+ )?
    (?: i \s+ (?:think|believe|guess|would\s+say|choose|pick|select|say) \s+ (?:that\s+)?
      | i (?:\s+would|'d) \s+ (?:go\s+with|choose|pick|select|say) \s+
      )?
    (?: (?:it|this) (?:\s+is|'s) (?:\s+probably)? \s+ )?
    (?: (?:the|my|our)\s+ )?
    (?: (?:correct|right|best|final|most\s+likely) \s+ )*
    (?: (?:answer|option|choice|letter|ans) (?:\s+(?:is|would\s+be|should\s+be|must\s+be))? [\s.:=-]* )?
    (?: (?:option|choice|letter) \s+ )?
    (?: (?:正确)? (?:答案|选项|选择|选) \s* (?:应该)? (?:是|为|选)? [\s:]* )?
"""

# "B", "(B)", "\boxed{B}", "the answer is **B**.", "Option B", "答案是B"
_LETTER_ALONE = re.compile(rf"{_MARKS}{_LEAD_IN}{_MARKS}([a-z]){_MARKS}", re.IGNORECASE | re.VERBOSE)

# "B. the eye": a letter with a mark, or on a line of its own, before more text
_LETTER_FIRST = re.compile(
    r"""[\s(\[{<"'“‘「【]* ([A-Z]) (?: [)\]}>"'”’」】]* [.:)\]】、。,] | [\])】>] )+ \s* \S
      | [\s(\[{<"'“‘「【]* ([A-Z]) [)\]】>]? (?: \s+[-–—]\s+ | \s*\n ) \s* \S""",
    re.VERBOSE,
)
# "A and B", "A, B", "A) or B)"
_SEVERAL_LETTERS = re.compile(
    rf"""{_BRACKETS} [A-Z] {_BRACKETS}
         (?: [,;/&+、] | \band\b | \bor\b | 和 | 或 )+ {_BRACKETS} (?: and\b | or\b )? {_BRACKETS}
         [A-Z] (?![A-Za-z])""",
    re.VERBOSE,
)

# A letter in a sentence: neither "A's" nor "A or B" nor the article of "A dog", but "A because ...".
_LETTER = r"""
    [\s(\[{<"'“‘「【$:-]*+
    ( [B-Z] | A (?! \s+ (?! (?:as|because|by|due|for|from|in|is|since|which|with) \b ) [a-z] ) )
    (?! [A-Za-z0-9_] | '[a-z] | \s* (?: or | and | [,/&] ) \s* [(]? [A-Z] (?![A-Za-z]) )
"""
_IS = r"(?: \s+ (?: is | IS | would\s+be | should\s+be | must\s+be ) )?"
_STATEMENTS = tuple(
    re.compile(pattern, re.VERBOSE)
    for pattern in (
        # "I think the answer is B because ..."
        rf"\b[Aa](?:nswer|NSWER) {_IS} (?: \s+ (?:[Oo]ption|[Cc]hoice) )? {_LETTER}",
        rf"(?: 答案 | 选项 | 应该选 | 选择 | 选 ) \s* (?:应该)? (?: 是 | 为 | 选 )? {_LETTER}",
        # "B is correct"
        r"""(?<![A-Za-z0-9_]) ([A-Z]) [)\]}>"'”’」】]* \s+ (?:is|seems)
            \s+ (?:the\s+)? (?:correct|right|best|true)""",
        # "I choose B", "option B", "I think it is B", "so B"
        rf"\b(?: choose | pick | select | go\s+with ) (?: \s+ (?:option|choice) )? {_LETTER}",
        rf"\b(?:[Oo]ption|[Cc]hoice) {_LETTER}",
        rf"\bI\s+(?:think|believe|guess) (?: \s+ (?: it\s+is | it's ) )? {_LETTER} (?= $ | \s*[.,;!)\]] )",
        rf"\b(?: so | thus | hence | therefore ) ,? {_LETTER} (?= $ | \s*[.;!)\]] )",
    )
)

# A negation directly before a letter or text, with these words between them at most.
_NEGATION_REACH = 80  # characters
_NEGATION = re.compile(
    r"""(?: \b(?: not | never | no | neither | nor | without | except | cannot | hardly )
          | n['’]t | \brather\s+than | \binstead\s+of | 不 )
        (?: \s* (?: \b(?: a | an | the | be | really | actually | necessarily | think | believe
                        | that | this | it | is | it's )\b | 是 | 选 ) )*
        [\s"'“‘(]* $""",
    re.IGNORECASE | re.VERBOSE,
)
_WRONG = re.compile(
    r"""[)\]}>"'”’」】]* \s* (?: is | was | seems | are )?
        (?: \s*(?:not\b|n't\b) | \s+(?:wrong|incorrect|false)\b | 不 )""",
    re.VERBOSE,
)


def parse_choice(prediction: str, choices: Sequence[str]) -> int | None:
    """Return the index of the choice that an answer means, None if it names none or several.

    The first rule that applies decides:

    1. the answer is the text of a choice;
    2. it is a letter alone, with marks or a lead-in ("B", "**(B)**", "Option B", "the answer is B");
    3. it begins with a letter and a mark ("B. the eye"), but not with several ("A, B");
    4. it calls one letter the answer somewhere in a sentence;
    5. it has the text of exactly one choice as whole words (of two that overlap, the longer one).

    A letter or text that is negated ("not hydrogen", "B is wrong") doesn't count. A choice that is itself a
    letter, as in AI2D's labelled diagrams, is therefore taken by its text. The official ScienceQA evaluation
    reads the letter of "The answer is B."; where no rule applies, nothing is guessed.

    Raises:
        ValueError: the prediction isn't a string, or there are no choices.
    """
    # Rule 1: the text of a choice.
    texts = [normalise(choice) for choice in check_answers(prediction, choices)]
    answer = normalise(prediction)
    if answer in texts:
        return texts.index(answer)

    # Rules 2 to 4, in this order. A letter beyond the choices means none of them.
    for letter in _stated_letters(_strip_markup(prediction)):
        index = _LETTERS.index(letter.upper())
        if index < len(texts):
            return index

    # Rule 5.
    return _only_choice_within(answer, texts)


def _strip_markup(text: str) -> str:
    """Remove what Markdown and LaTeX put around a letter; full-width characters become plain ones."""
    plain = unicodedata.normalize("NFKC", text)
    plain = re.sub(r"</?[A-Za-z_]{2,20}>", " ", plain)
    plain = re.sub(r"\\(?:boxed|text|textbf|mathrm|mathbf)\b|\\[()\[\]]", "", plain)
    return re.sub(r"\*+|`+|~~|(?<!\w)_+(?=\w)|(?<=\w)_+(?!\w)", "", plain)


def _stated_letters(text: str) -> Iterator[str]:
    """Yield the letters that the rules read as the answer, the strongest rule first."""
    if match := _LETTER_ALONE.fullmatch(text):
        yield match[1]

    if (match := _LETTER_FIRST.match(text)) and not _SEVERAL_LETTERS.match(text):
        yield match[1] or match[2]

    for statement in _STATEMENTS:
        letters = {
            match[1]
            for match in statement.finditer(text)
            if not _is_negated(text, match.start()) and not _WRONG.match(text, match.end())
        }

        # Several letters that are called the answer aren't one.
        if len(letters) == 1:
            yield letters.pop()
        if letters:
            return


def _is_negated(text: str, place: int) -> bool:
    """Return whether a negation stands directly before a place of a text."""
    return _NEGATION.search(text, max(0, place - _NEGATION_REACH), place) is not None


def _only_choice_within(answer: str, texts: Sequence[str]) -> int | None:
    """Return the index of the only choice that occurs in the answer as whole words and isn't negated."""
    remaining = answer
    named = []

    # Longest first: what a longer choice covers doesn't count for a shorter one inside it.
    for index in sorted(range(len(texts)), key=lambda i: -len(texts[i])):
        if not texts[index]:
            continue

        as_words = re.compile(rf"(?<!\w){re.escape(texts[index])}(?!\w)")
        places = [match.start() for match in as_words.finditer(remaining)]
        if any(not _is_negated(remaining, place) for place in places):
            named.append(index)
        remaining = as_words.sub("\0", remaining)

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
