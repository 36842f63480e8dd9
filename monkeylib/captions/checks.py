"""Checks of a caption: whether it follows the rules of the prompt, and how far it is grounded.

The prompt asks for fewer than six sentences, no coordinates and no single letters. Beyond that, a caption is
*grounded* as far as its content words (or their stems) occur in the output of an expert or in the original
caption. Grounding says that a word has a source, not that it is right; the captions of `RuleComposer` repeat
the experts and are always 100 % grounded. How far experts agree is counted in `confirmation`.

`check_caption` measures, for the record; `answers.rejections` decides whether a chat model's answer is kept.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from monkeylib.captions.annotations import CaptionCheck, Record
from monkeylib.captions.filtering import group_objects

MAXIMUM_SENTENCES = 5  # the paper asks for fewer than six

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+(?:[.,:/-]\d+)*")
_NUMBER = r"-?\d*\.?\d+\s*%?"
COORDINATES = re.compile(
    rf"[\[(]\s*{_NUMBER}\s*(?:[,;]\s*{_NUMBER}\s*){{1,3}}[\])]"  # (10, 20), [0.1; 0.2; 0.3; 0.4]
    r"|\b0?\.\d+\b\W{1,3}(?:(?:and|to|y)\W{1,3})?0?\.\d+\b"  # 0.1, 0.2 and 0.1 to 0.2
    r"|\b[xy]\s*[=:]\s*-?\d"
    r"|\b(?:bbox|coordinates?)\W{1,3}\d",
    re.IGNORECASE,
)
_LETTER = re.compile(r"\bletters?\s+[\"'“‘]?[A-Za-z]\b[\"'”’]?(?![\w'])", re.IGNORECASE)

_TITLES = frozenset("mr mrs ms dr st jr sr no vs etc e.g i.e approx".split())
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)")
QUOTATION = re.compile(r"[\"“][^\"”]*[\"”]")

# Words without content: grammar, places, and talk about images and texts.
_EMPTY = frozenset(
    """
    a about above across after against all along also alongside among an and another any are around as aside
    at away be because been before behind being below beneath beside besides between beyond both but by can
    could depict depicts depicted describe described display displays displayed do does down due each either
    else every everything feature features featuring few for foreground background front from further
    furthermore given has have having he her here hers him his how however i if image images in including
    indicate indicates inside into is it its itself just least less lie lies located located lot main many may
    more most much multiple near nearby next no nor not of off on one only onto or other others our out
    outside over overall part parts photo photograph picture pictures place placed position positioned
    possibly present rather read reading reads resting said same say says scene see seen seem seems set
    several she show showing shown shows side sides sit sits situated so some something somewhere stand stands
    standing still such text texts than that the their them then there these they thing things this those
    through to together top toward towards under underneath until up upon upper used various very via view
    visible was we well were what when where which while who whole whose will with within without word words
    would written you
    places bottom centre center central corner corners edge edges half left lower middle right
    filling fill fills large larger largest small smaller smallest
    """.split()
)
_NUMBERS = {
    word: number
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
_IRREGULAR = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "mice": "mouse",
    "feet": "foot",
    "teeth": "tooth",
    "knives": "knife",
    "leaves": "leaf",
    "geese": "goose",
}


def check_caption(record: Record) -> CaptionCheck:
    """Return the check of a record's detailed caption."""
    text = record.detailed_caption
    sentence_count = len(split_sentences(text))
    word_count, ungrounded = _grounding(record)

    return CaptionCheck(
        grounding=1 - len(ungrounded) / word_count if word_count else 1.0,
        sentences=sentence_count,
        unsupported=tuple(dict.fromkeys(ungrounded)),
        problems=tuple(_problems(text, sentence_count)),
    )


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text. Quotation marks, titles and initials end none."""
    # Hide the full stops within quotations.
    masked = QUOTATION.sub(lambda match: '"' + "x" * (len(match[0]) - 2) + '"', text)

    sentences, start = [], 0
    for end in _SENTENCE_END.finditer(masked):
        words = masked[start : end.start()].split()
        last_word = words[-1] if words else ""
        is_title = last_word.lower() in _TITLES
        is_initial = len(last_word) == 1 and last_word.isupper()

        # "Dr. Smith" and "J. Smith" do not end a sentence, unless the text ends there.
        if (is_title or is_initial) and end.end() < len(masked):
            continue

        sentences.append(text[start : end.end()].strip())
        start = end.end()

    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _problems(text: str, sentence_count: int) -> Iterator[str]:
    """Yield the rules of the prompt that a text breaks."""
    if sentence_count > MAXIMUM_SENTENCES:
        yield f"{sentence_count} sentences, not fewer than {MAXIMUM_SENTENCES + 1}"

    # Numbers in a quoted text are no coordinates.
    unquoted = QUOTATION.sub(" ", text)
    if match := COORDINATES.search(unquoted):
        yield f"coordinates: {match[0]}"
    if match := _LETTER.search(text):
        yield f"a single letter: {match[0]}"


def _grounding(record: Record) -> tuple[int, list[str]]:
    """Return the number of content words in the detailed caption, and the ungrounded ones."""
    supported_stems = source_stems(record)
    supported_counts = _object_counts(record)  # "three" is supported by three objects of one name

    words = content_words(record.detailed_caption)
    ungrounded = []
    for word in words:
        is_count = _NUMBERS.get(word) in supported_counts
        if stem(word) not in supported_stems and not is_count:
            ungrounded.append(word)

    return len(words), ungrounded


def content_words(text: str) -> list[str]:
    """Return the words of a text that say something: not grammar, places or talk about images."""
    return [word for word in words_of(text) if word not in _EMPTY]


def is_number(word: str) -> bool:
    """Return whether a word is a number, in figures or from zero to ten in letters."""
    return word in _NUMBERS or word[:1].isdigit()


def source_stems(record: Record) -> set[str]:
    """Return the stems of all words of the annotations and of the original caption, which support a word."""
    return {stem(word) for text in source_texts(record) for word in words_of(text)}


def source_texts(record: Record) -> list[str]:
    """Return the texts of the annotations, and the original caption."""
    texts = [caption.text for caption in record.captions] + [record.original_caption]
    return texts + [region.text for region in record.regions] + [line.text for line in record.lines]


def _object_counts(record: Record) -> set[int]:
    """Return the numbers of objects that share a name.

    Names are counted among the regions of each expert, and among the objects of all experts together.
    """
    by_expert: dict[str, list[str]] = {}
    for region in record.regions:
        by_expert.setdefault(region.expert, []).append(region.text)

    # Several experts may have detected one object: it counts once.
    objects = [group[0].text for group in group_objects(record.regions)]

    counts: set[int] = set()
    for texts in (*by_expert.values(), objects):
        stems = Counter(stem(word) for text in texts for word in set(words_of(text)))
        counts.update(stems.values())

    return counts


def words_of(text: str) -> list[str]:
    """Return words and numbers in lower case; compounds are split into their parts."""
    words = []
    for match in _WORD.finditer(text):
        word = match[0].casefold().replace("’", "'").removesuffix("'s")
        words += [part for part in word.split("-") if part]
    return words


def stem(word: str) -> str:
    """Return a word without the ending of plurals and of the commonest verbs: cats -> cat, running -> run."""
    word = _IRREGULAR.get(word, word)

    # Plurals.
    for ending, replacement in (("ies", "y"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("shes", "sh")):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word[: -len(ending)] + replacement
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        word = word[:-1]

    # Verb forms: a doubled consonant becomes single, a silent e goes.
    for ending in ("ing", "ed"):
        root = word.removesuffix(ending)
        if root != word and len(root) > 2:
            is_doubled = root[-1] == root[-2] and root[-1] not in "ls"
            return root[:-1] if is_doubled else root.removesuffix("e")

    return word.removesuffix("e") if len(word) > 3 else word


def mark_words(text: str, words: Iterable[str]) -> list[tuple[str, bool]]:
    """Split a text into parts, and mark those that are one of the given words.

    Args:
        text: the text.
        words: in lower case, as in `CaptionCheck.unsupported`.
    """
    marked_words = set(words)
    parts, start = [], 0
    for match in _WORD.finditer(text):
        # A compound is marked as a whole if one of its parts is.
        if marked_words.intersection(words_of(match[0])):
            parts.append((text[start : match.start()], False))
            parts.append((match[0], True))
            start = match.end()

    parts.append((text[start:], False))
    return [(part, is_marked) for part, is_marked in parts if part]
