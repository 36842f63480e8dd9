"""Checks of a caption: whether it follows the rules of the prompt, and how far it is grounded.

The prompt asks for fewer than six sentences, no coordinates and no single letters. Beyond that, a caption is
*grounded* as far as its content words (or their stems) occur in the output of an expert or in the original
caption. Grounding says that a word has a source, not that it is right; the captions of `RuleComposer` repeat
the experts and are always 100 % grounded.

`check_caption` measures, for the record. `rejections` decides whether a chat model's answer is kept.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

from monkeylib.captions.annotations import CaptionCheck, Record
from monkeylib.captions.filtering import group_objects

MAXIMUM_SENTENCES = 5  # the paper asks for fewer than six
MAXIMUM_CHARACTERS = 2000  # of five sentences: longer ones are none
MINIMUM_GROUNDING = 0.2  # share of content words below which an answer is about something else

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+(?:[.,:/-]\d+)*")
_COORDINATES = re.compile(r"[\[(]\s*-?\d*\.?\d+\s*(?:,\s*-?\d*\.?\d+\s*){1,3}[\])]|\b0?\.\d+\s*,\s*0?\.\d+")
_LETTER = re.compile(r"\bletters?\s+[\"'“‘]?[A-Za-z]\b[\"'”’]?(?![\w'])", re.IGNORECASE)

_TITLES = frozenset("mr mrs ms dr st jr sr no vs etc e.g i.e approx".split())
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)")
QUOTATION = re.compile(r"[\"“][^\"”]*[\"”]")

# Answers of chat models that are no captions.
_REFUSAL = re.compile(
    r"\b(?:i['’]?m|i am) (?:very |really |so )?(?:sorry|afraid|unable)\b"
    r"|\bi (?:can['’]?t|cannot|can not|won['’]?t|will not|am not able to|['’]m not able to)\b"
    r"|\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\bi (?:apologi[sz]e|don['’]?t have enough|do not have enough|need more)\b",
    re.IGNORECASE,
)
_MARKUP = re.compile(
    r"</?[a-z!][^<>]{0,200}>|<\|[^|<>]{0,50}\|>|```|\*\*[^*]|(?:^|\s)#{1,6}\s|!?\[[^\]]{0,200}\]\(|https?://",
    re.IGNORECASE,
)
# A text of some length in English has one of these; other languages have none of them.
_ENGLISH = frozenset("the and with are there this that which from while its".split())
_ENGLISH_LENGTH = 12  # words

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
    content_words, ungrounded = _grounding(record)

    return CaptionCheck(
        grounding=1 - len(ungrounded) / content_words if content_words else 1.0,
        sentences=sentence_count,
        unsupported=tuple(dict.fromkeys(ungrounded)),
        problems=tuple(_problems(text, sentence_count)),
    )


def rejections(record: Record) -> list[str]:
    """Return why the detailed caption of a record is to be rejected; empty if it may be kept.

    It is rejected if it is longer than `MAXIMUM_CHARACTERS` or `MAXIMUM_SENTENCES`, refuses the task, has
    markup or coordinates, is in another language than English, or if hardly any of its content words have a
    source (a share below `MINIMUM_GROUNDING`, of three words or more). What the image says may stand in
    quotation marks.
    """
    text = record.detailed_caption
    if len(text) > MAXIMUM_CHARACTERS:
        return [f"it has {len(text)} characters, more than {MAXIMUM_CHARACTERS}"]

    problems = []
    unquoted = QUOTATION.sub(" ", text)
    if match := _REFUSAL.search(unquoted):
        problems.append(f"it refuses: {match[0]}")
    if match := _MARKUP.search(unquoted):
        problems.append(f"it has markup: {match[0].strip()}")
    if not _is_english(unquoted):
        problems.append("it is not in English")

    sentence_count = len(split_sentences(text))
    if sentence_count > MAXIMUM_SENTENCES:
        problems.append(f"it has {sentence_count} sentences, not fewer than {MAXIMUM_SENTENCES + 1}")
    if match := _COORDINATES.search(unquoted):
        problems.append(f"it has coordinates: {match[0]}")

    # Two words may both be new to the experts, and right.
    content_words, ungrounded = _grounding(record)
    grounding = 1 - len(ungrounded) / content_words if content_words else 1.0
    if content_words >= 3 and grounding < MINIMUM_GROUNDING:
        problems.append(f"{grounding:.0%} of its words have a source, less than {MINIMUM_GROUNDING:.0%}")

    return problems


def _is_english(text: str) -> bool:
    """Return whether a text may be English: in Latin letters, and with its commonest words if it is long."""
    letters = [letter for letter in text if letter.isalpha()]
    foreign = [letter for letter in letters if not unicodedata.name(letter, "").startswith("LATIN")]
    if len(foreign) > len(letters) / 4:
        return False

    words = _words(text)
    return len(words) < _ENGLISH_LENGTH or not _ENGLISH.isdisjoint(words)


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
    if match := _COORDINATES.search(unquoted):
        yield f"coordinates: {match[0]}"
    if match := _LETTER.search(text):
        yield f"a single letter: {match[0]}"


def _grounding(record: Record) -> tuple[int, list[str]]:
    """Return the number of content words in the detailed caption, and the ungrounded ones."""
    # Annotations and the original caption support a word.
    texts = [caption.text for caption in record.captions] + [record.original_caption]
    texts += [region.text for region in record.regions] + [line.text for line in record.lines]
    supported_stems = {stem(word) for text in texts for word in _words(text)}
    supported_counts = _object_counts(record)  # "three" is supported by three objects of one name

    content_words = [word for word in _words(record.detailed_caption) if word not in _EMPTY]
    ungrounded = []
    for word in content_words:
        is_count = _NUMBERS.get(word) in supported_counts
        if stem(word) not in supported_stems and not is_count:
            ungrounded.append(word)

    return len(content_words), ungrounded


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
        stems = Counter(stem(word) for text in texts for word in set(_words(text)))
        counts.update(stems.values())

    return counts


def _words(text: str) -> list[str]:
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
        if marked_words.intersection(_words(match[0])):
            parts.append((text[start : match.start()], False))
            parts.append((match[0], True))
            start = match.end()

    parts.append((text[start:], False))
    return [(part, is_marked) for part, is_marked in parts if part]
