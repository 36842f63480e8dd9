"""Text normalisation before answers are compared."""

import re

# Contractions of the VQA evaluation rules. A prediction written without the apostrophe gets it back
# ("dont" -> "don't"); "its" and "lets" are words of their own and stay.
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've
mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've
somebody'd somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd
something'd've something'll that'd that'd've that's there'd there'd've there're there's they'd they'd've
they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd
where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


def _restorations() -> dict[str, str]:
    """Map every spelling with one or all apostrophes left out to the contraction."""
    found: dict[str, str] = {}
    for word in _CONTRACTED:
        for place, letter in enumerate(word):
            if letter == "'":
                found[word[:place] + word[place + 1 :]] = word
        found[word.replace("'", "")] = word
    return found


_RESTORED = _restorations()


def plain(text: str) -> str:
    """Normalise for exact match: Unicode case folded, blanks collapsed, one closing full stop dropped."""
    folded = " ".join(text.split()).casefold()
    return folded[:-1].rstrip() if len(folded) > 1 and folded.endswith(".") else folded


def vqa_punctuation(text: str, periods: int = 0) -> str:
    """First half of the VQA rules: a mark next to a blank disappears, elsewhere it becomes a blank.

    All marks disappear when the text has a comma between digits ("1,000" -> "1000"); a period stays only
    before a digit. `periods` limits how many are taken out (0: all of them).
    """
    thousands = _DIGIT_COMMA_DIGIT.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        removed = thousands or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if removed else " ")
    return _PERIOD.sub("", result, count=periods)


def vqa_words(text: str) -> str:
    """Second half of the VQA rules: lower case, number words to digits, articles out, apostrophes back."""
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_RESTORED.get(word, word) for word in words if word not in _ARTICLES)


def vqa(text: str) -> str:
    """Normalise by the rules of the official VQA evaluation (both halves)."""
    return vqa_words(vqa_punctuation(text.replace("\n", " ").replace("\t", " ").strip()))
