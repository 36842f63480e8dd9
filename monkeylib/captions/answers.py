"""Judging the answers of chat models: whether a text is a description of an image, or must not be kept.

`checks` measures a caption that is kept; here is decided whether it is one at all. Whatever comes from an
endpoint may be anything: a refusal, talk to the user, another language, markup, control characters, a text
about something else.
"""

import re
import unicodedata

from monkeylib.captions import checks
from monkeylib.captions.annotations import Record

MAXIMUM_CHARACTERS = 2000  # of five sentences: longer ones are none
MINIMUM_GROUNDING = 0.4  # share of content words that has a source, below which an answer is mostly invented

_FIRST_PERSON = re.compile(r"\bI(?:['’](?:m|d|ll|ve))?\s+[a-z]+")
_REFUSAL = re.compile(
    r"^\W*(?:sorry|unfortunately|apologies)\b"
    r"|\b(?:cannot|can['’]?t|won['’]t|unable to|not (?:possible|able) to|impossible to)"
    r" (?:be )?(?:describ|assist|help|provid|process|see|view|comply|fulfil|caption|identif)"
    r"|\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\bno (?:image|picture|photo|photograph|description|input) (?:is |was |has been |were )?"
    r"(?:provided|available|given|attached|uploaded|possible|supplied)\b"
    r"|\b(?:content|usage|safety) (?:policy|policies|guidelines)\b",
    re.IGNORECASE,
)
_TALK = re.compile(
    r"^\W*(?:sure|certainly|of course|absolutely|okay|ok)[!,.]"
    r"|^\W*(?:caption|description|answer|output)\s*:"
    r"|\bhere(?:['’]s| is) (?:a|an|the|your|my|one) (?:[\w-]+ ){0,3}(?:description|caption)\b"
    r"|\bplease (?:provide|upload|share|send|give|let me|try|attach)\b"
    r"|\blet me know\b|\bhow (?:can|may) i\b",
    re.IGNORECASE,
)
_MARKUP = re.compile(
    r"</?[a-z!][^<>]{0,200}>|<\|[^|<>]{0,50}\|>|&(?:#\w+|[a-z]{2,8});"  # HTML, special tokens, entities
    r"|```|[*`]\w|(?<!\w)_\w|(?:^|\s)#{1,6}\s|!?\[[^\]]{0,200}\]\(|\\[a-z]+\{"  # Markdown, LaTeX
    r"|(?:^|\n)\s*(?:[-•*+]|\d+[.)])\s"  # lists
    r"|^\s*[{\[]"  # JSON
    r"|https?://|\bdata:\w+/",
    re.IGNORECASE,
)

# A text of some length in English has one of these; other languages have none of them.
_ENGLISH = frozenset(
    """the and with are there this that which from while its of near behind beside above below between
    two three left right top bottom small large""".split()
)
_ENGLISH_LENGTH = 12  # words

# A text repeats itself if fewer than half of its runs of words are distinct.
_RUN, _REPETITIVE_LENGTH = 3, 12  # words of a run, and of a text that may be judged by them


def rejections(record: Record, minimum_grounding: float | None = MINIMUM_GROUNDING) -> list[str]:
    """Return why the detailed caption of a record is to be rejected; empty if it may be kept.

    It is rejected if it is longer than `MAXIMUM_CHARACTERS` or `checks.MAXIMUM_SENTENCES`, refuses the task,
    talks to the user, has markup, control characters or coordinates, repeats itself, is in another language
    than English, says nothing, or if too few of its content words have a source. What an expert has read in
    the image may stand in quotation marks, whatever it is.

    Args:
        record: the annotations, and the answer as `detailed_caption` with the line breaks that it came with.
        minimum_grounding: share of content words that must have a source, 0..1; never may all be without.
            None for a model that is the first to describe an image: its words need none.
    """
    text = record.detailed_caption.strip()
    if len(text) > MAXIMUM_CHARACTERS:
        return [f"it has {len(text)} characters, more than {MAXIMUM_CHARACTERS}"]

    prose = _prose(record, text)
    problems = [*_form_problems(prose), *_control_problems(text), *_length_problems(text)]
    if match := checks.COORDINATES.search(prose):
        problems.append(f"it has coordinates: {match[0]}")
    if not _is_english(record, prose):
        problems.append("it is not in English")

    # Places and talk about pictures are no content.
    check = checks.check_caption(record)
    says_nothing = not checks.content_words(text)
    if minimum_grounding is None:
        if says_nothing:
            problems.append("it says nothing about the picture")
    elif check.grounding == 0 or check.grounding < minimum_grounding:
        problems.append(
            f"{check.grounding:.0%} of its words have a source, less than {minimum_grounding:.0%}: nobody "
            f"said {', '.join(check.unsupported[:8])}"
        )
    elif says_nothing and any(map(checks.content_words, checks.source_texts(record))):
        problems.append("it says nothing about the picture")
    return problems


def _prose(record: Record, text: str) -> str:
    """Return a text without the quotations of what experts have read; other quotations are its own words."""
    stems = checks.source_stems(record)

    def own_words(match: re.Match[str]) -> str:
        quoted = match[0][1:-1]
        is_read = all(checks.stem(word) in stems for word in checks.words_of(quoted))
        return " " if is_read else f" {quoted} "

    return checks.QUOTATION.sub(own_words, text)


def _form_problems(prose: str) -> list[str]:
    """Return what shows that a text was not written as a description."""
    problems = []
    if match := _REFUSAL.search(prose):
        problems.append(f"it refuses: {match[0].strip()}")
    elif match := _FIRST_PERSON.search(prose) or _TALK.search(prose):
        problems.append(f"it talks to the user: {match[0].strip()}")
    if match := _MARKUP.search(prose):
        problems.append(f"it has markup: {match[0].strip()}")
    return problems


def _control_problems(text: str) -> list[str]:
    """Return the first control character: they change terminals, and lone surrogates cannot be stored."""
    for character in text:
        is_control = unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs")
        if is_control and not character.isspace():
            return [f"it has a control character: U+{ord(character):04X}"]
    return []


def _length_problems(text: str) -> list[str]:
    """Return whether a text has too many sentences or lines, or says the same again and again."""
    problems = []
    sentences = max(len(checks.split_sentences(text)), sum(bool(line.strip()) for line in text.splitlines()))
    if sentences > checks.MAXIMUM_SENTENCES:
        problems.append(f"it has {sentences} sentences, not fewer than {checks.MAXIMUM_SENTENCES + 1}")

    words = checks.words_of(text)
    runs = [tuple(words[start : start + _RUN]) for start in range(len(words) - _RUN + 1)]
    if len(words) >= _REPETITIVE_LENGTH and len(set(runs)) < len(runs) / 2:
        problems.append("it repeats itself")
    return problems


def _is_english(record: Record, prose: str) -> bool:
    """Return whether a text may be English: in Latin letters, and with its commonest words if it is long."""
    # Letters that an expert has read may be repeated.
    known = {letter for text in checks.source_texts(record) for letter in text}
    for letter in prose:
        is_latin = unicodedata.name(letter, "LATIN").startswith(("LATIN", "FEMININE", "MASCULINE"))
        if letter.isalpha() and not is_latin and letter not in known:
            return False

    words = checks.words_of(prose)
    return len(words) < _ENGLISH_LENGTH or not _ENGLISH.isdisjoint(words)
