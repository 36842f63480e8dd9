"""Masks as COCO stores them: run lengths down the columns, background first, as a short text.

The text is that of COCO's `counts`, so pycocotools reads it: each run length (from the fourth on its
difference from the one two before) in groups of five bits, lowest first, a sixth bit for "goes on", 48 added
to make it a character.
"""

from collections.abc import Sequence

import numpy as np

_BITS, _SIGN, _MORE, _FIRST = 5, 16, 32, 48


def run_lengths(mask: np.ndarray) -> tuple[int, ...]:
    """Lengths of the runs of a `[H, W]` mask, down the columns, the first one of background (0 if none).

    Raises:
        ValueError: the mask has not two dimensions, or no pixels.
    """
    if mask.ndim != 2 or not mask.size:
        raise ValueError(f"a mask is an array of shape [H, W] with pixels, got shape {list(mask.shape)}")
    cells = np.asarray(mask, dtype=bool).ravel(order="F")
    edges = np.flatnonzero(np.diff(cells)) + 1
    lengths = np.diff(np.concatenate([[0], edges, [cells.size]])).tolist()
    return (0, *lengths) if cells[0] else tuple(lengths)


def array(size: tuple[int, int], lengths: Sequence[int]) -> np.ndarray:
    """The `[H, W]` boolean mask of run lengths; `size` is height, width."""
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(size, order="F")


def to_text(lengths: Sequence[int]) -> str:
    """Run lengths as COCO's text."""
    characters = []
    for index, length in enumerate(lengths):
        rest = length - lengths[index - 2] if index > 2 else length
        while True:
            group, rest = rest & (2**_BITS - 1), rest >> _BITS
            done = rest == (-1 if group & _SIGN else 0)
            characters.append(chr(_FIRST + group + (0 if done else _MORE)))
            if done:
                break
    return "".join(characters)


def from_text(text: str) -> tuple[int, ...]:
    """The run lengths of COCO's text.

    Raises:
        ValueError: the text is none of COCO's.
    """
    lengths: list[int] = []
    value, shift = 0, 0
    for character in text:
        group = ord(character) - _FIRST
        if not 0 <= group < 2 * _MORE:
            raise ValueError(f"{character!r} doesn't occur in the run lengths of a mask (COCO's counts)")
        value |= (group & (2**_BITS - 1)) << shift
        shift += _BITS
        if group & _MORE:
            continue
        if group & _SIGN:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value, shift = 0, 0
    if shift or min(lengths, default=0) < 0:
        raise ValueError("the run lengths of a mask (COCO's counts) are cut off or wrong")
    return tuple(lengths)
