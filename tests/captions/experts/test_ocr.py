"""PP-OCR on a rendered page."""

from importlib.resources import files
from types import SimpleNamespace

import pytest
from PIL import Image, ImageDraw, ImageFont

from monkeylib.captions import annotations, filtering
from monkeylib.captions.experts.ocr import PpOcr


def test_pp_ocr_reads_a_rendered_page():
    font = ImageFont.truetype(str(files("matplotlib") / "mpl-data/fonts/ttf/DejaVuSans.ttf"), 28)
    page = Image.new("RGB", (420, 180), "white")
    draw = ImageDraw.Draw(page)
    for row, text in enumerate(["RECEIPT 2024", "Coffee 3.50"]):
        draw.text((30, 30 + 70 * row), text, font=font, fill="black")
    expert = PpOcr(threads=1)
    expert.prepare()
    page_output, empty_output = expert.annotate([page, Image.new("RGB", (64, 64), "white")])

    assert [line.text.replace(" ", "") for line in page_output.lines] == ["RECEIPT2024", "Coffee3.50"]
    assert all(line.confidence > filtering.OCR_CONFIDENCE for line in page_output.lines)

    # The first line was drawn at (30, 30) in 28 pixels.
    x0, y0, x1, y1 = page_output.lines[0].box
    assert x0 < 45 and 15 < y0 < 45 and 200 < x1 < 300 and 50 < y1 < 85
    assert empty_output.lines == ()


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_page_is_read_in_its_order_however_it_is_turned(quarters):
    texts = ["INVOICE 2041", "Total due 318.50", "Pay by 12 March"]
    font = ImageFont.truetype(str(files("matplotlib") / "mpl-data/fonts/ttf/DejaVuSans.ttf"), 28)
    page = Image.new("RGB", (420, 260), "white")
    for row, text in enumerate(texts):
        ImageDraw.Draw(page).text((30, 30 + 70 * row), text, font=font, fill="black")

    # Clockwise, as Pillow turns the other way.
    turned = page.rotate(-90 * quarters, expand=True)
    (output,) = PpOcr(threads=1).annotate([turned])
    ordered = annotations.reading_order(output.lines)
    assert [line.text.replace(" ", "") for line in ordered] == [text.replace(" ", "") for text in texts]

    (x0, y0), (x1, y1), *_ = ordered[0].quad
    direction = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarters]
    assert ((x1 - x0) * direction[0] + (y1 - y0) * direction[1]) > 100


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((1, 5000), None),
        ((5000, 4), None),
        ((3000, 5), (188, 3000, 3)),
        ((5, 3000), (3000, 188, 3)),
        ((600, 40), (40, 600, 3)),
        ((640, 40), (40, 640, 3)),
        ((641, 40), (41, 641, 3)),
    ],
)
def test_detector_gets_no_image_that_it_would_enlarge_without_bounds(size, shape, monkeypatch):
    shapes = []
    engine = lambda pixels: shapes.append(pixels.shape) or SimpleNamespace(boxes=None)  # noqa: E731
    monkeypatch.setattr(PpOcr, "_engine", staticmethod(engine))

    assert PpOcr().annotate([Image.new("RGB", size)])[0].lines == ()
    assert shapes == ([] if shape is None else [shape])
