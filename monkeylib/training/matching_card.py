"""The model card of the matching head, written from its facts and its scores on disk."""

import json
from pathlib import Path

from monkeylib import assets, resources, tables
from monkeylib.captions.experts.encoders import SIDE
from monkeylib.data.images import OPENMOJI, STAMPS

_TEMPLATE = """---
license: apache-2.0
library_name: monkeylib
---

# matching-head

Two linear maps ({weights:,} weights) that bring frozen features of an image (DINOv2-S, seen at {side}
pixels) and of a text (MiniLM-L6) into one space of {width} dimensions, and a logistic curve that turns
their closeness into the chance that the text belongs to the image. In this repository's CPU set it does
what BLIP-2's matching head does in the paper: it judges whether a region's text fits its crop. It is not
that model, and much weaker.

## Training

`python -m monkeylib.training.matching` repeats it in a few minutes of one core: {train} views of images
for training, {val} to choose the epoch and to fit the curve, {test} for the scores below. The images are
the PNG stamps of {stamps} ({stamps_licence}), each on white and on a photograph, and the things and beings
of {openmoji} ({openmoji_licence}) on white. Everything with one description is in one split, so the test's
images and its descriptions are both new. The images aren't part of this repository; `monkeylib assets
fetch` gets them.

## Test scores

Recall in percent among all test candidates with 95 % bootstrap intervals, chance in brackets
(`retrieval.csv` has every number):

{scores}
How often a threshold judges right where as many texts belong to their image as don't (chance 50):

{judged}
One seed, one small test split. Read the intervals.

## Limits

It knows single things on plain ground. Actions, relations, numbers, colours and scenes aren't in its
training, photographs of crowded scenes are only imitated, and a
text that names a similar thing may well pass.

Version {version}. Licence: Apache-2.0; so are DINOv2 and MiniLM.
"""


def write(folder: Path) -> Path:
    """Write `README.md` beside a trained head.

    Raises:
        FileNotFoundError: the folder holds no facts or no scores.
    """
    facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rows = tables.read_file(folder / "retrieval.csv")
    stamps, openmoji = assets.find(STAMPS), assets.find(OPENMOJI)
    width = facts["width"]
    text = _TEMPLATE.format(
        weights=width * (768 + 384) + 2 * width,
        side=SIDE,
        width=width,
        **facts["views"],
        stamps=stamps.upstream,
        stamps_licence=stamps.licence,
        openmoji=openmoji.upstream,
        openmoji_licence=openmoji.licence,
        scores=tables.markdown(_wide([row for row in rows if str(row["metric"]).startswith("recall")])),
        judged=tables.markdown(_wide([row for row in rows if str(row["metric"]).startswith("accuracy")])),
        version=facts["version"],
    )
    with resources.replacing(folder / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return folder / "README.md"


def _wide(rows: list[tables.Row]) -> list[tables.Row]:
    """A line for each group and direction, with a column for each metric."""
    lines: dict[tuple[str, str], dict[str, tables.Value]] = {}
    for row in rows:
        key = str(row["images"]), str(row["direction"])
        line = lines.setdefault(key, {"images": key[0], "direction": key[1], "candidates": row["candidates"]})
        value, low, high, chance = (100 * float(row[name]) for name in ("value", "low", "high", "chance"))
        line[str(row["metric"])] = f"{value:.1f} ({low:.1f}–{high:.1f}) [{chance:.1f}]"
    return list(lines.values())
