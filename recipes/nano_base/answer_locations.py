"""Location of each character of an answer in its image: the targets of attention supervision."""

from __future__ import annotations

import re

from transformers import PreTrainedTokenizerBase

from monkeylib.boxes import Box, center
from monkeylib.data.synthetic.canvas import Text
from monkeylib.data.synthetic.samples import LEGIBLE, TILE, Sample


def locate_texts(sample: Sample, answer: str) -> list[tuple[int, Text]]:
    """Return the texts of an image that an answer repeats, each with its start in the answer.

    An answer that is one text of the image is located only if the image holds that text once, since the
    answer does not say which of several it means. In a longer answer, such as a transcript, texts are located
    in reading order.
    """
    strings = [text.string for text in sample.texts]
    if answer in strings:
        if strings.count(answer) > 1:
            return []
        return [(0, sample.texts[strings.index(answer)])]

    matches = []
    start = 0
    for text in sample.texts:
        # As a whole word: "12" is not a part of "312".
        pattern = re.compile(rf"(?<![a-z0-9]){re.escape(text.string)}(?![a-z0-9])")
        match = pattern.search(answer, start)
        if match:
            matches.append((match.start(), text))
            start = match.end()

    return matches


def visual_token_targets(
    sample: Sample, answer: str, tokenizer: PreTrainedTokenizerBase, side: int, view: Box | None = None
) -> list[int]:
    """Return for each token of an answer the visual token whose region holds that character, -1 for none.

    Args:
        sample: the image and what is written in it.
        answer: the answer.
        tokenizer: of the language model; most of its tokens are single characters.
        side: visual tokens along each side of the view.
        view: the part of the image that the view shows, in pixels; the full image by default.
    """
    left, top, right, bottom = view or (0, 0, *sample.image.size)
    width, height = right - left, bottom - top

    # Position in the answer -> box of the character in the image. Blanks have no glyph.
    boxes = {}
    for start, text in locate_texts(sample, answer):
        positions = [start + i for i, char in enumerate(text.string) if char != " "]
        is_legible = text.height * TILE / min(width, height) >= LEGIBLE
        if is_legible:
            for position, glyph in zip(positions, text.glyphs, strict=True):
                boxes[position] = glyph.box

    encoded = tokenizer(
        answer, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    targets = []
    for start, end in encoded["offset_mapping"]:
        # A token of several characters has no single place.
        box = boxes.get(start) if end == start + 1 else None
        if box is None:
            targets.append(-1)
            continue

        # The cell of the queries' grid in which the middle of the character lies.
        x, y = center(box)
        column = min(int((x - left) / width * side), side - 1)
        row = min(int((y - top) / height * side), side - 1)
        targets.append(row * side + column)

    return targets
