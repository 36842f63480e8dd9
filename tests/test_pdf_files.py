"""Pages of PDF files are drawn at a bounded resolution, and what cannot be drawn is refused in a sentence."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from monkeylib import images, pdf_files
from monkeylib.image_errors import ImageError
from tests.support.image_files import encoded, locked_pdf, pdf, scene

LIMITS = {"max_side": 16_384, "max_pixels": 89_478_485}
COLORS = ["red", "lime", "blue"]


@pytest.fixture(scope="module")
def document():
    return pdf([Image.new("RGB", (60, 40), color) for color in COLORS])


def test_each_page_is_drawn(document):
    assert pdf_files.count_pages(io.BytesIO(document), "a.pdf") == 3

    for number, color in enumerate(COLORS, 1):
        image, count = pdf_files.render_page(io.BytesIO(document), "a.pdf", number, **LIMITS)
        assert image.mode == "RGB" and image.size == (60, 40) and count == 3
        expected = Image.new("RGB", (60, 40), color)
        assert np.abs(np.asarray(image).astype(int) - np.asarray(expected)).max() < 20  # it is stored as JPEG


def test_more_pages_than_anyone_reads_are_refused(document, monkeypatch):
    monkeypatch.setattr(pdf_files, "MAX_PAGES", 2)
    with pytest.raises(ImageError, match="a.pdf has 3 pages, and 2 at most are read") as error:
        pdf_files.count_pages(io.BytesIO(document), "a.pdf")
    assert error.value.code == "too-large"


@pytest.mark.parametrize("number", [0, 4, 10**8])
def test_page_out_of_range_is_refused(document, number):
    with pytest.raises(ImageError, match=f"a.pdf: the file has 3 pages.* there is no page {number}") as error:
        pdf_files.render_page(io.BytesIO(document), "a.pdf", number, **LIMITS)
    assert error.value.code == "missing"


def test_resolution_is_lowered_where_a_page_is_large():
    # 20 x 10 inches would be 4000 x 2000 pixels.
    sheet = pdf([Image.new("RGB", (200, 100), "white")], resolution=10)
    for max_side, max_pixels, expected in [
        (16_384, 10**8, (4000, 2000)),
        (1000, 10**8, (1000, 500)),
        (16_384, 80_000, (400, 200)),
    ]:
        image, _ = pdf_files.render_page(
            io.BytesIO(sheet), "a.pdf", 1, max_side=max_side, max_pixels=max_pixels
        )
        assert image.width <= max_side and image.width * image.height <= max_pixels
        assert np.allclose(image.size, expected, rtol=0.02)


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (locked_pdf(), "unsupported", "a.pdf is locked by a password: save it without one"),
        (b"%PDF-1.7\n", "truncated", "a.pdf cannot be read as a PDF file"),
        (pdf([scene()])[:150], "truncated", "a.pdf cannot be read as a PDF file"),
    ],
)
def test_broken_and_locked_files_are_refused(content, code, message):
    for read in (
        lambda: pdf_files.count_pages(io.BytesIO(content), "a.pdf"),
        lambda: pdf_files.render_page(io.BytesIO(content), "a.pdf", 1, **LIMITS),
    ):
        with pytest.raises(ImageError, match=message) as error:
            read()
        assert error.value.code == code


def test_pdf_is_told_by_its_first_bytes(document):
    for content, expected in [
        (document, True),
        (b"\n" * 500 + document, True),
        (b"\n" * 2000 + document, False),
        (encoded(scene(), "PNG"), False),
        (b"", False),
    ]:
        file = io.BytesIO(content)
        assert images.is_pdf(file) is expected and file.tell() == 0


def test_threads_may_draw_at_once(document):
    def color(number):
        image, _ = pdf_files.render_page(io.BytesIO(document), "a.pdf", number % 3 + 1, **LIMITS)
        return image.getpixel((20, 20))

    expected = [color(number) for number in range(3)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(color, range(60))) == expected * 20
