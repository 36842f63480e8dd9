"""Captions in fixed sentences, of the experts' annotations only. Needs no model."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from monkeylib import boxes
from monkeylib.boxes import Point
from monkeylib.captions.annotations import Record, reading_order
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
        # Each group of regions is one object, its best region first.
        regions = [group[0] for group in group_objects(record.regions)]
        bare_names = [bare_name(region) for region in regions]
        image_captions = [*(caption.text for caption in record.captions), record.original_caption]
        parts = [part for text in image_captions if text.strip() for part in split_sentences(text)[:2]]
        lines = reading_order(record.lines)

        # Where the objects are, and how large.
        size = record.width, record.height
        fractions = [boxes.normalise(region.box, size) for region in regions]
        centers = [boxes.center(box) for box in fractions]
        shares = [boxes.area(box) for box in fractions]
        areas = [boxes.area(region.box) for region in regions]

        objects = []
        for region, name, center, share, area in zip(
            regions, bare_names, centers, shares, areas, strict=True
        ):
            objects.append(_Object(region.text, name, describe_place(center, share), center, area))
        quotes = [_quote(line.text) for line in lines if len(line.text.strip()) > 1]
        details = _detail_sentences(objects, quotes, self.maximum_texts)

        # Whole-image captions, two sentences of each, take the room that is left.
        image_sentences = [as_sentence(part) for part in parts[: MAXIMUM_SENTENCES - len(details)]]
        return " ".join([*image_sentences, *details])


class _Object(NamedTuple):
    """An object as the sentences need it.

    Attributes:
        name: its text.
        bare_name: its text without article, in lower case.
        place: its place in words.
        center: of its box, as fractions of the image.
        area: of its box, in pixels.
    """

    name: str
    bare_name: str
    place: str
    center: Point
    area: float


def _quote(text: str) -> str:
    """Return a text on one line in quotation marks; those within it become single ones."""
    one_line = " ".join(text.split())
    return '"' + one_line.translate({ord(mark): "'" for mark in '"“”'}) + '"'


def describe_place(center: Point, share: float) -> str:
    """Return the place of a box in words: the thirds of the image, both ways, that hold its centre.

    Args:
        center: x and y of its centre, as fractions of the image.
        share: share of the image that it covers.
    """
    # A centre on the right or lower edge would give index 3.
    column = ("left", "centre", "right")[min(2, int(3 * center[0]))]
    row = ("top", "middle", "bottom")[min(2, int(3 * center[1]))]

    if share > 0.6:
        return "filling most of the picture"
    if row == "middle":
        return "in the centre" if column == "centre" else f"on the {column}"
    return f"at the {row}" if column == "centre" else f"at the {row} {column}"


def _detail_sentences(objects: Sequence[_Object], quotes: Sequence[str], maximum_texts: int) -> list[str]:
    """Return the sentences of the objects and their places, of their relation, and of the texts."""
    relation = _relation_sentence(objects)
    sentences = []

    # Objects of one name are counted.
    places_of_name: dict[str, list[str]] = {}
    for item in objects:
        places_of_name.setdefault(item.name, []).append(item.place)

    phrases = []
    for name, places in places_of_name.items():
        # Each place once, in the order of the regions.
        unique_places = list(dict.fromkeys(places))
        where = join_with_and(unique_places) if len(unique_places) <= 3 else "in several places"
        phrases.append(f"{with_count(name, len(places))} {where}")

    if phrases:
        sentences.append(f"The picture shows {'; '.join(phrases)}.")
    if relation:
        sentences.append(relation)

    if len(quotes) > maximum_texts:
        sentences.append(f"The text reads {', '.join(quotes[:maximum_texts])} and more.")
    elif quotes:
        sentences.append(f"The text reads {join_with_and(quotes)}.")
    return sentences


def _relation_sentence(objects: Sequence[_Object]) -> str:
    """Return the sentence of the relation of the two largest objects with unique names, if clearly apart."""
    counts = Counter(item.name for item in objects)
    unique = [item for item in objects if counts[item.name] == 1]
    if len(unique) < 2:
        return ""

    # The two largest; of two equal ones, the first comes first.
    first, second = sorted(unique, key=lambda item: -item.area)[:2]

    # How far the centre of the first lies to the right of and below that of the second, in fractions.
    right = first.center[0] - second.center[0]
    down = first.center[1] - second.center[1]
    if max(abs(right), abs(down)) < 0.15:
        return ""

    # The larger of the two distances decides.
    if abs(right) >= abs(down):
        relation = "to the right of" if right > 0 else "to the left of"
    else:
        relation = "below" if down > 0 else "above"

    return f"The {first.bare_name} is {relation} the {second.bare_name}."
