"""Damage within JPEG files, which decoders pass over: they show what is left.

A PNG file has checksums, which Pillow compares. A JPEG file has none, and its decoder only warns where the
data contradict themselves; Pillow drops these warnings. So the file is decoded once more, at an eighth of its
size, by a decoder that reports them. Besides, each block's mean is compared with what 8-bit pixels can have:
damage often shifts all blocks that follow, since each is stored as a difference from the one before.

Damage that leaves valid codes and possible brightness cannot be told from an image. WebP, AVIF, JPEG 2000 and
most TIFF files have no checksums either, and are as their decoders read them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Warnings of libjpeg, in words that its messages contain.
_LOST_DATA = ("premature end of data segment", "bad Huffman code", "instead of RST", "bad arithmetic code")
# Some cameras and servers leave a few bytes too many, so these are no proof.
_ODD_DATA = ("extraneous bytes", "Inconsistent progression")

_SCALE = 8  # an eighth of the size needs the means of the 8 x 8 blocks alone
_LARGEST_MEAN = 1024  # 8 x 128: the mean of a block as JPEG files store it, from the middle of the range

_QUANTISATION, _START_OF_SCAN = 0xDB, 0xDA
_BASELINE_EXTENDED_PROGRESSIVE = (0xC0, 0xC1, 0xC2)


@dataclass(frozen=True)
class Damage:
    """What is wrong with a file that its decoder read.

    Attributes:
        description: what was found.
        is_certain: whether a part of the image is lost; otherwise the file is odd, and may be right.
    """

    description: str
    is_certain: bool


def find_jpeg_damage(content: bytes) -> Damage | None:
    """Return the damage of a JPEG file that Pillow could decode, None if there is no sign of any."""
    import simplejpeg

    try:
        content, mean_step = _with_unit_means(content)
        *_, color_space, _ = simplejpeg.decode_jpeg_header(content)
        is_cmyk = color_space in ("CMYK", "YCCK")
        means = simplejpeg.decode_jpeg(
            content,
            colorspace="CMYK" if is_cmyk else "GRAY",
            min_factor=_SCALE,
            min_height=1,
            min_width=1,
            fastdct=True,
            fastupsample=True,
        )
    except (ValueError, IndexError) as error:
        return _damage_of_warning(str(error))

    # Brightness is stored as such in these alone.
    if mean_step is None or color_space not in ("YCbCr", "Gray"):
        return None

    # Pixels of the small image are means / 8, rounded, from 128: 8 lower they are surely not too high.
    sizes = (np.abs(means.astype(np.int64) - 128) * _SCALE - _SCALE) * mean_step
    impossible = int((sizes > _LARGEST_MEAN + mean_step + _SCALE).sum())
    if impossible:
        return Damage(f"the brightness of {impossible} blocks is impossible", is_certain=False)
    return None


def _damage_of_warning(message: str) -> Damage | None:
    """Return what a message of libjpeg tells; None for a file of a kind that only Pillow reads."""
    description = message.removeprefix("Corrupt JPEG data: ").strip()
    if any(words in message for words in _LOST_DATA):
        return Damage(description, is_certain=True)
    if any(words in message for words in _ODD_DATA):
        return Damage(description, is_certain=False)
    return None


def _with_unit_means(content: bytes) -> tuple[bytes, int | None]:
    """Return a JPEG file whose blocks' means are not multiplied by their quantisation step.

    Then the small image shows them as they are stored, and values beyond those of pixels are not clipped.

    Returns:
        The file, and the step of the first component's means (None if the file has no tables).
    """
    changed = bytearray(content)
    steps: dict[int, int] = {}
    table_of_brightness = None

    # Segments: FF, a marker, and a length of two bytes that counts itself.
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # filling
            position += 1
            continue
        start, end = position + 4, position + 2 + int.from_bytes(content[position + 2 : position + 4], "big")

        if marker == _QUANTISATION:
            # A table: precision and number in one byte, then 64 steps of one or two bytes, the mean's first.
            while start < end:
                precision, number = content[start] >> 4, content[start] & 15
                size = 2 if precision else 1
                steps[number] = int.from_bytes(content[start + 1 : start + 1 + size], "big")
                changed[start + 1 : start + 1 + size] = (1).to_bytes(size, "big")
                start += 1 + 64 * size
        elif marker in _BASELINE_EXTENDED_PROGRESSIVE:
            # Precision, height, width, number of components; then id, sampling and table of the first one.
            table_of_brightness = content[start + 8]
        elif marker == _START_OF_SCAN:
            break

        position = end

    return bytes(changed), steps.get(table_of_brightness)
