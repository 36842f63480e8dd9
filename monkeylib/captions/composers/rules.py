"""Captions in fixed sentences, of the experts' annotations only. Needs no model."""

from collections import Counter
from collections.abc import Sequence

from monkeylib import boxes
from monkeylib.boxes import Box, Point
from monkeylib.captions.annotations import OcrLine, Record, Region
from monkeylib.captions.checks import MAXIMUM_SENTENCES, split_sentences
from monkeylib.captions.filtering import bare_name, group_objects
from monkeylib.captions.models import Composer
from monkeylib.captions.registry import register_composer
from monkeylib.english import as_sentence, join_with_and, with_count


@register_composer("rules")
class RuleComposer(Composer):
    """Fixed sentences, the same for the same record.

    Captions of the full image come first, then the objects with their places, the relation of the two
    largest, and the texts. An object of several experts is named once, by its best name
    (`filtering.group_objects`). Single letters are left out, as in the paper's prompt.
    """

    name, version, licence = "rules", "3", "Apache-2.0"
    setting_names = ("maximum_texts",)

    def __init__(self, maximum_texts: int = 8) -> None:
        self.maximum_texts = maximum_texts

    def compose(self, record: Record) -> str:
        """Return at most five sentences."""
        details = []
        if record.regions:
            # Each group of regions is one object, its best region first.
            objects = [group[0] for group in group_objects(record.regions)]
            details += [_objects_sentence(record, objects), _relation_sentence(record, objects)]

        if record.lines:
            details.append(self._texts_sentence(record))
        details = [text for text in details if text]

        # Whole-image captions, two sentences of each, take the room that is left.
        image_captions = [*(caption.text for caption in record.captions), record.original_caption]
        parts = [part for text in image_captions if text.strip() for part in split_sentences(text)[:2]]
        image_sentences = [as_sentence(part) for part in parts[: MAXIMUM_SENTENCES - len(details)]]

        return " ".join([*image_sentences, *details])

    def _texts_sentence(self, record: Record) -> str:
        quotes = [_quote(line.text) for line in reading_order(record.lines) if len(line.text.strip()) > 1]
        if not quotes:
            return ""

        if len(quotes) > self.maximum_texts:
            return f"The text reads {', '.join(quotes[: self.maximum_texts])} and more."
        return f"The text reads {join_with_and(quotes)}."


def _quote(text: str) -> str:
    """Return a text on one line in quotation marks; those within it become single ones."""
    one_line = " ".join(text.split())
    return '"' + one_line.translate({ord(mark): "'" for mark in '"“”'}) + '"'


def reading_order(lines: Sequence[OcrLine]) -> list[OcrLine]:
    """Return lines from the top of their page to its bottom, and from left to right on one level.

    The page is turned as most of the text is, in steps of 90 degrees: of an upside-down page, the top is at
    the bottom of the image.
    """
    turns: Counter[int] = Counter()
    for line in lines:
        # Long lines are surely text, and tell the direction best.
        turns[_quarter_turns(line)] += len(line.text)
    # Of two equal ones, the fewer turns.
    turn = min(turns, key=lambda turn: (-turns[turn], turn), default=0)

    upright = [[_turn_back(point, turn) for point in line.quad] for line in lines]
    return [lines[index] for index in boxes.reading_order(boxes.bounding_boxes(upright))]


def _quarter_turns(line: OcrLine) -> int:
    """Return by how many quarters a line is turned clockwise, from 0 to 3."""
    (x0, y0), (x1, y1), *_ = line.quad
    right, down = x1 - x0, y1 - y0
    if abs(right) >= abs(down):
        return 0 if right >= 0 else 2
    return 1 if down > 0 else 3


def _turn_back(point: Point, quarters: int) -> Point:
    """Turn a point counterclockwise about the corner of the image."""
    x, y = point
    return [(x, y), (y, -x), (-x, -y), (-y, x)][quarters]


def describe_places(record: Record, places: Sequence[Box]) -> list[str]:
    """Return the place of each box in words: the thirds of the image, both ways, that hold its centre."""
    size = record.width, record.height
    fractions = [boxes.normalise(box, size) for box in places]
    areas = map(boxes.area, fractions)
    centers = map(boxes.center, fractions)

    descriptions = []
    for area, (x, y) in zip(areas, centers, strict=True):
        # A centre on the right or lower edge would give index 3.
        column = ("left", "centre", "right")[min(2, int(3 * x))]
        row = ("top", "middle", "bottom")[min(2, int(3 * y))]

        if area > 0.6:
            descriptions.append("filling most of the picture")
        elif row == "middle":
            descriptions.append("in the centre" if column == "centre" else f"on the {column}")
        else:
            descriptions.append(f"at the {row}" if column == "centre" else f"at the {row} {column}")

    return descriptions


def _objects_sentence(record: Record, objects: Sequence[Region]) -> str:
    """Return the sentence of objects and their places; objects of one name are counted."""
    if not objects:
        return ""

    places_of_name: dict[str, list[str]] = {}
    for region, place in zip(
        objects, describe_places(record, [region.box for region in objects]), strict=True
    ):
        places_of_name.setdefault(region.text, []).append(place)

    phrases = []
    for name, places in places_of_name.items():
        # Each place once, in the order of the regions.
        unique_places = list(dict.fromkeys(places))
        where = join_with_and(unique_places) if len(unique_places) <= 3 else "in several places"
        phrases.append(f"{with_count(name, len(places))} {where}")

    return f"The picture shows {'; '.join(phrases)}."


def _relation_sentence(record: Record, objects: Sequence[Region]) -> str:
    """Return the sentence of the relation of the two largest objects with unique names, if clearly apart."""
    counts = Counter(region.text for region in objects)
    unique = [region for region in objects if counts[region.text] == 1]
    if len(unique) < 2:
        return ""

    # The two largest; of two equal ones, the first comes first.
    areas = [boxes.area(region.box) for region in unique]
    by_size = sorted(range(len(unique)), key=lambda index: -areas[index])
    first, second = (unique[index] for index in by_size[:2])

    # How far the centre of the first lies to the right of and below that of the second.
    size = record.width, record.height
    first_x, first_y = boxes.center(boxes.normalise(first.box, size))
    second_x, second_y = boxes.center(boxes.normalise(second.box, size))
    right, down = first_x - second_x, first_y - second_y  # fractions of the image
    if max(abs(right), abs(down)) < 0.15:
        return ""

    # The larger of the two distances decides.
    if abs(right) >= abs(down):
        relation = "to the right of" if right > 0 else "to the left of"
    else:
        relation = "below" if down > 0 else "above"

    return f"The {bare_name(first)} is {relation} the {bare_name(second)}."
