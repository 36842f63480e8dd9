"""JPEG files that are decoded late, and only as large as they are needed.

libjpeg can decode a file at a half, a quarter or an eighth of its size, in about that share of the time: each
block of 8 x 8 pixels is then computed with as many of its frequencies as the smaller block holds. An image of
a camera that is resized to a fraction of its pixels needs no more.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags

# What libjpeg turns into RGB as Pillow does; CMYK files are inverted by some programs.
_COLOUR_SPACES = ("YCbCr", "Gray", "RGB")
_FACTORS = (8, 4, 2)


@dataclass(frozen=True)
class JpegFile:
    """The content of a JPEG file whose pixels are as a viewer shows them: upright, and not in CMYK.

    Attributes:
        content: the bytes of the file.
        name: stands for it in messages.
        size: width and height in pixels.
    """

    content: bytes
    name: str
    size: tuple[int, int]

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.size[0]

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.size[1]

    def decode(self, enough: tuple[int, int] | None = None) -> np.ndarray | None:
        """Return the pixels `[height, width, 3]`, by libjpeg-turbo and without Pillow.

        Args:
            enough: width and height in pixels that suffice: the file is decoded at the smallest of 1/8, 1/4,
                1/2 and 1 of its size that has as many.

        Returns:
            None where the file is damaged or of a kind that only Pillow reads, which then tells what is
            wrong.
        """
        import simplejpeg

        factor = 1 if enough is None else self.shrink_factor(enough)
        try:
            # Strict: it raises where libjpeg would only warn of lost data.
            return simplejpeg.decode_jpeg(
                self.content,
                "RGB",
                min_width=-(-self.width // factor),
                min_height=-(-self.height // factor),
                min_factor=factor,
                strict=True,
            )
        except ValueError:
            return None

    def shrink_factor(self, enough: tuple[int, int]) -> int:
        """Return by which of 8, 4, 2 and 1 both sides may be divided and still have so many pixels."""
        return next(
            (
                factor
                for factor in _FACTORS
                if -(-self.width // factor) >= enough[0] and -(-self.height // factor) >= enough[1]
            ),
            1,
        )


def read_jpeg_file(content: bytes, name: str, identify: Callable[[Any, str], Any]) -> JpegFile | None:
    """Return a JPEG file that can be decoded late; None where Pillow has to show it.

    Args:
        content: of any file.
        name: stands for it in messages.
        identify: reads its header with Pillow.
    """
    if not content.startswith(b"\xff\xd8"):
        return None
    import simplejpeg

    try:
        height, width, colour_space, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    if colour_space not in _COLOUR_SPACES:
        return None

    with identify(io.BytesIO(content), name) as image:
        is_upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        return JpegFile(content, name, (width, height)) if is_upright else None
