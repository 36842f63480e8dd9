"""Pages of PDF files as images, drawn by PDFium."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image

from monkeylib.image_errors import ImageError

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

RESOLUTION = 200  # pixels per inch: A4 becomes 1654 x 2339, and print of 6 points stays legible

MAX_PAGES = 10_000  # a file of a few bytes may claim any number

_POINTS_PER_INCH = 72

# PDFium serves one thread at a time, also for different documents.
_ONE_THREAD = threading.Lock()


def count_pages(file: BinaryIO, name: str) -> int:
    """Return the number of pages of a PDF file; `name` stands for it in messages.

    Raises:
        ImageError: the file is damaged, locked by a password, or has more than `MAX_PAGES`.
    """
    with _document(file, name) as document:
        count = len(document)
    if count > MAX_PAGES:
        raise ImageError(
            "too-large",
            f"{name} has {count:,} pages, and {MAX_PAGES:,} at most are read: name one, as in {name}#1, or "
            "split the file",
        )
    return count


def render_page(
    file: BinaryIO, name: str, page: int, *, max_side: int, max_pixels: int
) -> tuple[Image.Image, int]:
    """Draw a page of a PDF file on white, with its annotations and what is filled into its forms.

    Args:
        file: the open file.
        name: what stands for it in messages.
        page: number of the page, from 1.
        max_side: largest side of the image in pixels; a larger page gets a lower resolution.
        max_pixels: largest number of pixels, likewise.

    Returns:
        The page in RGB, and the number of pages of the file.

    Raises:
        ImageError: the file is damaged or locked by a password, or it has no such page.
    """
    from pypdfium2.raw import FPDFBitmap_BGR

    with _document(file, name) as document:
        check_page(page, len(document), name)
        document.init_forms()
        drawn = document[page - 1]

        # In points, as the page is turned. PDFium gives a page without a size the one of a letter.
        width, height = drawn.get_size()
        scale = min(
            RESOLUTION / _POINTS_PER_INCH,
            (max_side - 1) / max(width, height),
            math.sqrt(max_pixels / (width * height)) * 0.999,
        )
        # Sides are rounded up, which must not add a line for the last digit of a size in points.
        bitmap = drawn.render(scale=scale * (1 - 1e-5), force_bitmap_format=FPDFBitmap_BGR)
        return bitmap.to_pil(), len(document)


def check_page(page: int, count: int, name: str) -> None:
    """Raise an `ImageError` unless a document of `count` pages has a page of this number."""
    if not 1 <= page <= count:
        pages = "one page" if count == 1 else f"{count} pages"
        raise ImageError(
            "missing", f"{name}: the file has {pages}, counted from 1, so there is no page {page}"
        )


@contextmanager
def _document(file: BinaryIO, name: str) -> Iterator[PdfDocument]:
    """Open a PDF file for this thread alone.

    Raises:
        ImageError: the file is damaged, or locked by a password; also if PDFium fails within the block.
    """
    import pypdfium2
    from pypdfium2.raw import FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY

    with _ONE_THREAD:
        document = None
        try:
            document = pypdfium2.PdfDocument(file)
            if len(document) == 0:
                raise ImageError("truncated", f"{name} is a PDF file without pages: save it again")
            yield document
        except pypdfium2.PdfiumError as error:
            if error.err_code in (FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY):
                raise ImageError(
                    "unsupported", f"{name} is locked by a password: save it without one, and pass that file"
                ) from error
            raise ImageError(
                "truncated", f"{name} cannot be read as a PDF file ({error}): expected a whole one"
            ) from error
        finally:
            # Its pages and forms close with it.
            if document is not None:
                document.close()
