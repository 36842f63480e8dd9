"""Texts that name images: paths, pages of documents, http and https addresses, `data:` URIs.

`scan.pdf#3` is the third page of a document. What a text names is opened by `images`.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path

from monkeylib import resources
from monkeylib.errors import beginning
from monkeylib.image_errors import ImageError, MissingImageError
from monkeylib.redaction import redact

# Endings of the files of images, as folders and archives are searched for them.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .avif .jp2 .j2k "
    ".jpf .jpx .j2c".split()
)
PDF_SUFFIX = ".pdf"

# A page of a document: its path, and its number from 1.
_PAGE = re.compile(r"(.+)#([0-9]{1,9})", re.DOTALL)

# `Path` makes one slash of two.
_ADDRESS = re.compile(r"https?:/", re.IGNORECASE)
# s3://..., file:///..., which are never fetched.
_ANY_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
# Of JPEG, PNG, GIF, WebP and PDF files.
_BASE64_BEGINNINGS = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "JVBERi0")


def is_address(source: object) -> bool:
    """Return whether something is the text of an http or https address."""
    return isinstance(source, str) and _ADDRESS.match(source) is not None


def is_data_uri(source: object) -> bool:
    """Return whether something is the text of a `data:` URI."""
    return isinstance(source, str) and source[:5].lower() == "data:"


def split_page(path: str | Path) -> tuple[Path, int | None]:
    """Return the file and the number of `scan.pdf#3`; the number is None where none is named.

    A `~` stands for the home folder. A file that bears such a name itself is a file.
    """
    if str(path).startswith("~") and not os.path.lexists(path):
        path = resources.to_path(path)
    match = _PAGE.fullmatch(str(path))
    if match is None or os.path.lexists(path):
        return Path(path), None
    return Path(match[1]), int(match[2])


def page_of_address(address: str) -> int | None:
    """Return the number of the page that an address ends with, as in `https://host/scan.pdf#3`, else None."""
    match = _PAGE.fullmatch(address)
    return int(match[2]) if match else None


def decode_data_uri(uri: str) -> bytes:
    """Return the bytes of a `data:image/...;base64,` URI.

    Raises:
        ImageError: it is of another form, or holds no valid base64.
    """
    header, separator, content = uri.partition(",")
    if not separator or not header.rstrip().lower().endswith(";base64"):
        raise ImageError(
            "unsupported", "a data: URI of an image must look like data:image/png;base64,CONTENT"
        )

    try:
        # Mails and some tools break the lines.
        return base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("truncated", f"the data: URI holds no valid base64 ({error})") from error


def missing_image(name: str) -> ImageError:
    """Return the error for a path at which there is nothing."""
    if name.startswith(_BASE64_BEGINNINGS):
        return ImageError(
            "unsupported",
            f"{beginning(name, 20)} is base64, not a path: pass its bytes, or data:image/png;base64,...",
        )
    if _ANY_ADDRESS.match(name):
        return ImageError(
            "unsupported",
            f"{redact(beginning(name, 200))} is an address: download the image and pass its path",
        )

    advice = "check the path"
    if name != name.strip():
        advice += ", which begins or ends with white space"
    if (sample := resources.find_sample(name)) != name:
        advice += f"; the shipped image of this name is {resources.display_path(sample)}"
    return MissingImageError("missing", f"there is no image at {beginning(name, 300)}: {advice}")
