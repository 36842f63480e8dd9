"""Does a description keep to what was asked of it, and to what was seen?

The prompt asks for fewer than six sentences, for no coordinates and for no single letters. Beyond that, a
description is grounded as far as its content words were said by an expert or by the original caption.
"""

import re
from collections import Counter
from collections.abc import Iterable

from monkeylib.captions import filtering
from monkeylib.captions.annotations import CaptionCheck, Record

MAXIMUM_SENTENCES = 5  # the paper asks for fewer than six

_TITLES = frozenset("mr mrs ms dr st jr sr no vs etc e.g i.e approx".split())
_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)")
_QUOTED = re.compile(r"[\"“][^\"”]*[\"”]")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+(?:[.,:/-]\d+)*")
_COORDINATES = re.compile(r"[\[(]\s*-?\d*\.?\d+\s*(?:,\s*-?\d*\.?\d+\s*){1,3}[\])]|\b0?\.\d+\s*,\s*0?\.\d+")
_LETTER = re.compile(r"\bletters?\s+[\"'“‘]?[A-Za-z]\b[\"'”’]?(?![\w'])", re.IGNORECASE)

# Words that say nothing of the image's content: grammar, places, and talk about images and texts.
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
_NUMBERS = {w: n for n, w in enumerate("zero one two three four five six seven eight nine ten".split())}
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


def check(record: Record) -> CaptionCheck:
    """The check of a record's detailed caption."""
    text = record.detailed_caption
    total, unsupported = _grounding(record)
    grounding = 1.0 if not total else 1 - len(unsupported) / total
    distinct = tuple(dict.fromkeys(unsupported))
    return CaptionCheck(
        grounding=grounding,
        sentences=len(sentences(text)),
        unsupported=distinct,
        problems=tuple(_problems(text)),
    )


def sentences(text: str) -> list[str]:
    """The sentences of a text; quotation marks, titles and initials end none."""
    masked = _QUOTED.sub(lambda found: '"' + "x" * (len(found[0]) - 2) + '"', text)
    pieces, start = [], 0
    for end in _END.finditer(masked):
        word = masked[start : end.start()].rsplit(maxsplit=1)[-1:] or [""]
        initial = len(word[0]) == 1 and word[0].isupper()
        if (word[0].lower() in _TITLES or initial) and end.end() < len(masked):
            continue
        pieces.append(text[start : end.end()].strip())
        start = end.end()
    return [piece for piece in [*pieces, text[start:].strip()] if piece]


def _problems(text: str) -> Iterable[str]:
    count = len(sentences(text))
    if count > MAXIMUM_SENTENCES:
        yield f"{count} sentences, not fewer than {MAXIMUM_SENTENCES + 1}"
    outside = _QUOTED.sub(" ", text)
    if found := _COORDINATES.search(outside):
        yield f"coordinates: {found[0]}"
    if found := _LETTER.search(text):
        yield f"a single letter: {found[0]}"


def ungrounded(record: Record) -> list[str]:
    """Content words of the detailed caption that no expert and no original caption said, in order."""
    return _grounding(record)[1]


def _grounding(record: Record) -> tuple[int, list[str]]:
    """How many content words the detailed caption has, and those of them that nobody said."""
    texts = [caption.text for caption in record.captions] + [record.original_caption]
    texts += [region.text for region in record.regions] + [line.text for line in record.lines]
    said = {stem(word) for text in texts for word in _words(text)}
    counts = _counts(record)
    words = [word for word in _words(record.detailed_caption) if word not in _EMPTY]
    unsupported = []
    for word in words:
        if stem(word) not in said and _NUMBERS.get(word) not in counts:
            unsupported.append(word)
    return len(words), unsupported


def _counts(record: Record) -> set[int]:
    """How often there is a thing of one name: by each expert's count, and by that of merged objects."""
    by_expert = [
        [region for region in record.regions if region.expert == expert]
        for expert in dict.fromkeys(region.expert for region in record.regions)
    ]
    merged = [group[0] for group in filtering.objects(record.regions)]
    return {
        count
        for regions in (*by_expert, merged)
        for count in Counter(stem(word) for region in regions for word in set(_words(region.text))).values()
    }


def _words(text: str) -> list[str]:
    """Words and numbers in lower case; the parts of compounds one by one."""
    found = (match[0].casefold().replace("’", "'") for match in _WORD.finditer(text))
    return [part for word in found for part in word.removesuffix("'s").split("-") if part]


def stem(word: str) -> str:
    """A word without the ending of plurals and of the commonest verb forms: cats, cat; running, run."""
    word = _IRREGULAR.get(word, word)
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("shes", "sh")):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word[: -len(ending)] + instead
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        word = word[:-1]
    for ending in ("ing", "ed"):
        root = word.removesuffix(ending)
        if root != word and len(root) > 2:
            doubled = root[-1] == root[-2] and root[-1] not in "ls"
            return root[:-1] if doubled else root.removesuffix("e")
    return word.removesuffix("e") if len(word) > 3 else word


def mark(text: str, words: Iterable[str]) -> list[tuple[str, bool]]:
    """A text in pieces, each with whether it is one of some words (lower case, as in `CaptionCheck.unsupported`)."""
    wanted, pieces, start = set(words), [], 0
    for found in _WORD.finditer(text):
        if wanted.intersection(_words(found[0])):
            pieces += [(text[start : found.start()], False), (found[0], True)]
            start = found.end()
    return [piece for piece in [*pieces, (text[start:], False)] if piece[0]]
