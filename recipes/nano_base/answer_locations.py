"""Where each written character of an answer stands in its image: what a reader looks at, one by one."""

from __future__ import annotations

import re

from transformers import PreTrainedTokenizerBase

from monkeylib.boxes import Box
from monkeylib.data.synthetic.canvas import Text
from monkeylib.data.synthetic.samples import LEGIBLE, TILE, Sample


def locate_texts(sample: Sample, answer: str) -> list[tuple[int, Text]]:
    """The texts of an image that an answer repeats, each with where it starts in the answer.

    In a transcript every text is found, in reading order; elsewhere a text that stands in the image more than
    once is left out, since the answer does not say which it was.
    """
    strings = [text.string for text in sample.texts]
    if answer in strings:
        return [(0, sample.texts[strings.index(answer)])] if strings.count(answer) == 1 else []
    found, start = [], 0
    for text in sample.texts:
        match = re.compile(rf"(?<![a-z0-9]){re.escape(text.string)}(?![a-z0-9])").search(answer, start)
        if match:
            found.append((match.start(), text))
            start = match.end()
    return found


def visual_token_targets(
    sample: Sample, answer: str, tokenizer: PreTrainedTokenizerBase, side: int, view: Box | None = None
) -> list[int]:
    """For each token of an answer the visual token whose region holds that character, -1 where there is none.

    Args:
        side: visual tokens along each side of the one view.
        view: the part of the image that it shows, in pixels; the whole if not given.
    """
    left, top, right, bottom = view or (0, 0, *sample.image.size)
    width, height = right - left, bottom - top
    boxes = {}
    for start, text in locate_texts(sample, answer):
        places = [start + i for i, char in enumerate(text.string) if char != " "]
        if text.height * TILE / min(width, height) >= LEGIBLE:
            boxes |= {place: glyph.box for place, glyph in zip(places, text.glyphs, strict=True)}
    encoded = tokenizer(
        answer, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    looked = []
    for start, end in encoded["offset_mapping"]:
        box = boxes.get(start) if end == start + 1 else None
        if box is None:
            looked.append(-1)
            continue
        column = int(((box[0] + box[2]) / 2 - left) / width * side)
        row = int(((box[1] + box[3]) / 2 - top) / height * side)
        looked.append(min(row, side - 1) * side + min(column, side - 1))
    return looked
