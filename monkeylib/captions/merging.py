"""Which regions of several experts are one object, so that it is named once.

An expert's own regions stay apart: it has decided already what is one object. Regions of two experts are one
where their boxes nearly agree, or where they bear the same name and one lies nearly within the other.
"""

from collections.abc import Sequence

from monkeylib.captions.annotations import Box, Region
from monkeylib.captions.filtering import iou

SAME_PLACE = 0.7  # IoU from which two names mean one object
SAME_NAME = 0.8  # share of the smaller box from which one name means one object
_ARTICLES = ("a ", "an ", "the ")


def shared(first: Box, second: Box) -> float:
    """The share of the smaller box that lies in the other, 0..1; 0 for boxes without area."""
    sides = [max(0.0, min(first[i + 2], second[i + 2]) - max(first[i], second[i])) for i in (0, 1)]
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return min(1.0, sides[0] * sides[1] / smaller) if smaller > 0 else 0.0


def name(region: Region) -> str:
    """A region's text without article and case, for comparison."""
    text = region.text.strip().lower()
    for article in _ARTICLES:
        text = text.removeprefix(article)
    return text


def same(first: Region, second: Region) -> bool:
    """Whether two regions are one object."""
    if first.expert == second.expert:
        return False
    if iou(first.box, second.box) >= SAME_PLACE:
        return True
    return name(first) == name(second) and shared(first.box, second.box) >= SAME_NAME


def worth(region: Region) -> float:
    """What a region is judged by: its match where a matcher ran, else its expert's confidence."""
    return region.score if region.match is None else region.match


def objects(regions: Sequence[Region]) -> list[tuple[Region, ...]]:
    """The regions grouped into objects, in the order of the objects' best regions in `regions`.

    The best region of an object, by `worth`, stands first and gives it its name; any other is one object with
    it, and no two of an object are of one expert.
    """
    groups: list[list[Region]] = []
    order = {id(region): place for place, region in enumerate(regions)}
    for region in sorted(regions, key=lambda region: (-worth(region), order[id(region)])):
        home = next((group for group in groups if _fits(region, group)), None)
        if home is None:
            groups.append([region])
        else:
            home.append(region)
    return [tuple(group) for group in sorted(groups, key=lambda group: order[id(group[0])])]


def _fits(region: Region, group: Sequence[Region]) -> bool:
    return same(group[0], region) and all(region.expert != other.expert for other in group)
