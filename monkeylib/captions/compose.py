"""From what experts saw to one description.

`chat_prompt` asks a chat model for it, in the sense of the paper's prompt. `RuleComposer` needs no model:
it says in fixed sentences what was seen, and nothing else.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from monkeylib.captions.annotations import Box, OcrLine, Provenance, Record, Region

MAXIMUM_SENTENCES = 5  # the paper asks for fewer than six

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


class Composer(Protocol):
    """Writes the description of a filtered record."""

    @property
    def provenance(self) -> Provenance:
        """Name, version and settings, as kept with what it wrote."""

    def compose(self, record: Record) -> str:
        """The description, empty where nothing is known."""


def chat_prompt(record: Record, maximum_characters: int = 6000) -> str:
    """The message that asks a chat model for the description of a filtered record.

    In the order of the paper: the task, captions of the whole picture (the original one included, as the
    paper says and the release forgot), regions, segments, texts if there are any, the rules. Regions with
    low scores go first where the message would be longer than `maximum_characters`.

    Raises:
        ValueError: the task and the rules alone are longer than that.
    """
    whole = [caption.text for caption in record.captions]
    whole += [record.original_caption] if record.original_caption else []
    best = sorted(
        record.regions, key=lambda region: -(region.score if region.match is None else region.match)
    )
    texts = list(record.lines)
    while True:
        message = _message(record, whole, best, texts)
        if len(message) <= maximum_characters:
            return message
        if not (best or texts):
            raise ValueError(
                f"The chat prompt needs {len(message)} characters: allow more than {maximum_characters}."
            )
        (best if len(best) >= len(texts) else texts).pop()


def _message(
    record: Record, whole: Sequence[str], regions: Sequence[Region], lines: Sequence[OcrLine]
) -> str:
    def listed(items: Iterable[Region | OcrLine]) -> str:
        return " ".join(f"{item.text}: {_corners(record, item.box)};" for item in items)

    dense = [region for region in regions if region.kind == "region"]
    segments = [region for region in regions if region.kind == "segment"]
    parts = [
        _TASK,
        "Whole picture: " + " ".join(f"{text.rstrip('.')}." for text in whole) if whole else "",
        f"Regions (description: place): {listed(dense)}" if dense else "",
        f"Segments (description: place): {listed(segments)}" if segments else "",
        f"Texts in the picture (text: place): {listed(lines)}" if lines else "",
        _RULES,
    ]
    return "\n".join(part for part in parts if part)


def _corners(record: Record, box: Box) -> str:
    return "[" + ", ".join(f"{side:.2f}" for side in record.normalised(box)) + "]"


class RuleComposer:
    """A description in fixed sentences, the same for the same record.

    Global captions first, then the objects with their places, how the two largest lie to each other, and
    the texts. Nothing is said that no expert said; single letters are left out, as the paper asks.
    """

    def __init__(self, maximum_texts: int = 8) -> None:
        self.maximum_texts = maximum_texts

    @property
    def provenance(self) -> Provenance:
        """Name, version and settings."""
        settings: dict[str, Any] = {"maximum_texts": self.maximum_texts}
        return Provenance(expert="rules", version="1", settings=settings)

    def compose(self, record: Record) -> str:
        """At most five sentences."""
        whole = [caption.text for caption in record.captions]
        sentences = [_sentence(text) for text in [*whole, record.original_caption] if text.strip()][:2]
        sentences += [text for text in (_objects(record), _relation(record), self._texts(record)) if text]
        return " ".join(sentences[:MAXIMUM_SENTENCES])

    def _texts(self, record: Record) -> str:
        quoted = [f'"{line.text}"' for line in reading_order(record.lines) if len(line.text.strip()) > 1]
        if not quoted:
            return ""
        shown = quoted[: self.maximum_texts]
        more = " and more" if len(quoted) > len(shown) else ""
        return f"The text reads {_and(shown) if not more else ', '.join(shown) + more}."


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
    """Where a box lies, in words: the third of the picture that holds its centre."""
    x0, y0, x1, y1 = record.normalised(box)
    if (x1 - x0) * (y1 - y0) > 0.6:
        return "filling most of the picture"
    column = ("left", "centre", "right")[min(2, int(3 * (x0 + x1) / 2))]
    row = ("top", "middle", "bottom")[min(2, int(3 * (y0 + y1) / 2))]
    if row == "middle":
        return "in the centre" if column == "centre" else f"on the {column}"
    return f"at the {row}" if column == "centre" else f"at the {row} {column}"


def _objects(record: Record) -> str:
    groups: dict[str, list[Region]] = {}
    for region in record.regions:
        groups.setdefault(region.text, []).append(region)
    if not groups:
        return ""
    phrases = []
    for text, regions in groups.items():
        places = list(dict.fromkeys(place(record, region.box) for region in regions))
        where = _and(places) if len(places) <= 3 else "in several places"
        phrases.append(f"{_counted(text, len(regions))} {where}")
    return f"The picture shows {'; '.join(phrases)}."


def _relation(record: Record) -> str:
    """How the two largest objects that are alone of their name lie to each other, if clearly apart."""
    names = [region.text for region in record.regions]
    alone = [region for region in record.regions if names.count(region.text) == 1]
    if len(alone) < 2:
        return ""
    first, second = sorted(alone, key=lambda region: -_area(region.box))[:2]
    ours, theirs = record.normalised(first.box), record.normalised(second.box)
    right, down = (((ours[i] + ours[i + 2]) - (theirs[i] + theirs[i + 2])) / 2 for i in (0, 1))
    if max(abs(right), abs(down)) < 0.15:
        return ""
    if abs(right) >= abs(down):
        how = "to the right of" if right > 0 else "to the left of"
    else:
        how = "below" if down > 0 else "above"
    return f"The {first.text} is {how} the {second.text}."


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
_PLURALS = {"person": "people", "sheep": "sheep", "skis": "skis", "scissors": "scissors", "mouse": "mice"}


def _counted(noun: str, count: int) -> str:
    """A noun with its article or number; a text that has one already ("a man with a hat") stays as it is."""
    if noun.split()[0] in ("a", "an", "the", "two", "three", "some", "several"):
        return noun
    if count == 1:
        return noun if noun in ("skis", "scissors") else f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
    plural = _PLURALS.get(noun) or noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")
    if noun.endswith("knife"):
        plural = noun[:-2] + "ves"
    return f"{_NUMBERS.get(count, 'many')} {plural}"
