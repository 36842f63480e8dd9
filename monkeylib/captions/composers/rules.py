"""From what experts saw to one description.

`chat_prompt` asks a chat model for it, in the sense of the paper's prompt. `RuleComposer` needs no model:
it says in fixed sentences what was seen, and nothing else.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from monkeylib.boxes import Box, area
from monkeylib.captions import filtering
from monkeylib.captions.annotations import OcrLine, Record, Region
from monkeylib.captions.checks import MAXIMUM_SENTENCES, sentences
from monkeylib.captions.experts.base import Composer
from monkeylib.captions.filtering import worth
from monkeylib.english import counted, listed, sentence

_TASK = (
    "You write captions. Several people described the same picture, in whole and in part. Write one "
    "description from what they say that is coherent, logical and full of detail. Places are given by their "
    "top left and bottom right corner, from (0, 0) to (1, 1)."
)
_RULES = (
    "Put things in context. Descriptions of one object at one place belong together, and so do texts that "
    "form one sentence. Name the main objects with their place, colour and shape, and how they lie to each "
    "other. Write fewer than six sentences. Give no coordinates, and don't describe single letters."
)


def chat_prompt(record: Record, maximum_characters: int = 6000) -> str:
    """The message that asks a chat model for the description of a filtered record.

    In the order of the paper: the task, captions of the whole image (the original one included, as the
    paper says and the release forgot), regions, segments, texts if there are any, the rules. Where it would
    be longer than `maximum_characters`, the captions of the whole are cut to a third of what there is
    for the image, and the least certain regions and texts go.

    Raises:
        ValueError: the task and the rules alone are longer than that.
    """
    bare = len(_message(record, [], [], []))
    if bare > maximum_characters:
        raise ValueError(f"The chat prompt needs {bare} characters: allow more than {maximum_characters}.")
    whole = [_one_line(caption.text) for caption in record.captions] + [_one_line(record.original_caption)]
    whole = [text for text in whole if text]
    best = sorted(record.regions, key=lambda region: -worth(region))
    texts = list(record.lines)
    if len(_message(record, whole, best, texts)) > maximum_characters:
        whole = _cut(whole, (maximum_characters - bare) // 3)
    while len(message := _message(record, whole, best, texts)) > maximum_characters:
        if best and len(best) >= len(texts):
            best.pop()
        elif texts:
            texts.remove(min(reversed(texts), key=lambda line: line.confidence))
        else:
            whole = whole[:-1]
    return message


def _cut(texts: Sequence[str], characters: int) -> list[str]:
    """Texts that share a number of characters, cut behind a word where they are longer than their share."""
    share = characters // max(1, len(texts))
    return [text if len(text) <= share else text[:share].rpartition(" ")[0] for text in texts]


def _one_line(text: str) -> str:
    """A text that can't be taken for another part of the prompt."""
    return " ".join(text.split())


def _message(
    record: Record, whole: Sequence[str], regions: Sequence[Region], lines: Sequence[OcrLine]
) -> str:
    def placed(items: Iterable[Region | OcrLine]) -> str:
        return " ".join(f"{_one_line(item.text)}: {_corners(record, item.box)};" for item in items)

    dense = [region for region in regions if region.kind == "region"]
    segments = [region for region in regions if region.kind == "segment"]
    parts = [
        _TASK,
        "Whole picture: " + " ".join(f"{text.rstrip('.')}." for text in whole if text) if any(whole) else "",
        f"Regions (description: place): {placed(dense)}" if dense else "",
        f"Segments (description: place): {placed(segments)}" if segments else "",
        f"Texts in the picture (text: place): {placed(lines)}" if lines else "",
        _RULES,
    ]
    return "\n".join(part for part in parts if part)


def _corners(record: Record, box: Box) -> str:
    return "[" + ", ".join(f"{side:.2f}" for side in record.normalised(box)) + "]"


class RuleComposer(Composer):
    """A description in fixed sentences, the same for the same record.

    Global captions first, then the objects with their places, how the two largest lie to each other, and
    the texts. What several experts say of one object is said once, by its best name (`merging.objects`).
    Nothing is said that no expert said; single letters are left out, as the paper asks.
    """

    name, version, licence = "rules", "2", "Apache-2.0"

    def __init__(self, maximum_texts: int = 8) -> None:
        self.maximum_texts = maximum_texts

    @property
    def settings(self) -> dict[str, Any]:
        """How many lines of text are quoted."""
        return {"maximum_texts": self.maximum_texts}

    def compose(self, record: Record) -> str:
        """At most five sentences."""
        things = [group[0] for group in filtering.objects(record.regions)]
        seen = [_objects(record, things), _relation(record, things), self._texts(record)]
        seen = [text for text in seen if text]
        said = [caption.text for caption in record.captions] + [record.original_caption]
        whole = [sentence(part) for text in said if text.strip() for part in sentences(text)[:2]]
        return " ".join([*whole[: MAXIMUM_SENTENCES - len(seen)], *seen])

    def _texts(self, record: Record) -> str:
        quoted = [_quoted(line.text) for line in reading_order(record.lines) if len(line.text.strip()) > 1]
        if not quoted:
            return ""
        shown = quoted[: self.maximum_texts]
        more = " and more" if len(quoted) > len(shown) else ""
        return f"The text reads {listed(shown) if not more else ', '.join(shown) + more}."


def _quoted(text: str) -> str:
    """A text in quotation marks, those within it made single ones."""
    return '"' + _one_line(text).translate({ord(mark): "'" for mark in '"“”'}) + '"'


def reading_order(lines: Sequence[OcrLine]) -> list[OcrLine]:
    """Lines from top to bottom; those whose middles are on one level, from left to right."""
    rows: list[list[OcrLine]] = []
    for line in sorted(lines, key=lambda line: line.box[1] + line.box[3]):
        middle = (line.box[1] + line.box[3]) / 2
        if rows and middle < rows[-1][0].box[3]:
            rows[-1].append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: line.box[0])]


def place(record: Record, box: Box) -> str:
    """Where a box lies, in words: the third of the image that holds its centre."""
    x0, y0, x1, y1 = record.normalised(box)
    if (x1 - x0) * (y1 - y0) > 0.6:
        return "filling most of the picture"
    column = ("left", "centre", "right")[min(2, int(3 * (x0 + x1) / 2))]
    row = ("top", "middle", "bottom")[min(2, int(3 * (y0 + y1) / 2))]
    if row == "middle":
        return "in the centre" if column == "centre" else f"on the {column}"
    return f"at the {row}" if column == "centre" else f"at the {row} {column}"


def _objects(record: Record, things: Sequence[Region]) -> str:
    groups: dict[str, list[Region]] = {}
    for region in things:
        groups.setdefault(region.text, []).append(region)
    if not groups:
        return ""
    phrases = []
    for text, regions in groups.items():
        places = list(dict.fromkeys(place(record, region.box) for region in regions))
        where = listed(places) if len(places) <= 3 else "in several places"
        phrases.append(f"{counted(text, len(regions))} {where}")
    return f"The picture shows {'; '.join(phrases)}."


def _relation(record: Record, things: Sequence[Region]) -> str:
    """How the two largest objects that are alone of their name lie to each other, if clearly apart."""
    names = [region.text for region in things]
    alone = [region for region in things if names.count(region.text) == 1]
    if len(alone) < 2:
        return ""
    first, second = sorted(alone, key=lambda region: -area(region.box))[:2]
    ours, theirs = record.normalised(first.box), record.normalised(second.box)
    right, down = (((ours[i] + ours[i + 2]) - (theirs[i] + theirs[i + 2])) / 2 for i in (0, 1))
    if max(abs(right), abs(down)) < 0.15:
        return ""
    if abs(right) >= abs(down):
        how = "to the right of" if right > 0 else "to the left of"
    else:
        how = "below" if down > 0 else "above"
    return f"The {filtering.name(first)} is {how} the {filtering.name(second)}."
