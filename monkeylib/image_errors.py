"""What is raised, and what is said, where something cannot be read as an image, or not all of it.

`monkeylib.images` raises these errors; whoever only tells them apart imports them without an image library.
"""

from __future__ import annotations

from typing import Any, Literal

FILE_FORMATS = "JPEG, PNG, WebP, TIFF, GIF, BMP, PPM, AVIF, JPEG 2000 or PDF"  # for messages

ErrorCode = Literal["missing", "permission", "empty", "truncated", "unsupported", "too-large", "too-small"]


class ImageError(ValueError):
    """Something that cannot be read as an image.

    Attributes:
        code: `missing`, `permission`, `empty`, `truncated`, `unsupported`, `too-large`, or `too-small` to be
            described.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, str(self))


class MissingImageError(ImageError, FileNotFoundError):
    """There is no file where an image is looked for."""


class ImageWarning(UserWarning):
    """An image was read, but not all that its file holds."""


def truncated(name: str, error: Exception) -> ImageError:
    """Return the error for a file whose decoder raised `error`."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ImageError(
        "truncated",
        f"{name} cannot be read as an image ({reason}): expected a whole {FILE_FORMATS} file",
    )
