"""HTML pages: escaping, images inside the page, and files that stand alone."""

import base64
import io

import jinja2
import pytest
from PIL import Image

from monkeylib import html_pages
from monkeylib.html_pages import Page, render


def test_values_are_escaped_and_rendered_parts_are_not():
    part = render("<b>{{ text }}</b>", text="<script>")
    assert str(part) == "<b>&lt;script&gt;</b>"
    assert str(render("<p>{{ part }}</p>", part=part)) == "<p><b>&lt;script&gt;</b></p>"


def test_misspelt_name_in_a_template_raises():
    with pytest.raises(jinja2.UndefinedError, match="txet"):
        render("{{ txet }}", text="a")


@pytest.mark.parametrize(("image_format", "mode"), [("JPEG", "RGB"), ("PNG", "RGBA")])
def test_data_uri_holds_the_image(image_format, mode):
    uri = html_pages.data_uri(Image.new("RGBA", (30, 10), "red"), image_format)
    head, encoded = uri.split(",")
    assert head == f"data:image/{image_format.lower()};base64"
    decoded = Image.open(io.BytesIO(base64.b64decode(encoded)))
    assert (decoded.format, decoded.mode, decoded.size) == (image_format, mode, (30, 10))


def test_data_uri_shrinks_large_images_and_leaves_the_original_alone():
    image = Image.new("RGB", (300, 100))
    encoded = html_pages.data_uri(image, max_side=30).split(",")[1]
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (30, 10)
    assert image.size == (300, 100)


def test_page_in_a_notebook_limits_its_style_to_itself():
    fragment = Page("A & B", render("<p>text</p>"), style=".monkey-page i { color: red; }\n")._repr_html_()
    assert "<h1>A &amp; B</h1>" in fragment and "<p>text</p>" in fragment
    assert "<html" not in fragment
    rules = fragment.split("<style>")[1].split("</style>")[0].splitlines()
    assert all(rule.startswith(".monkey-page") for rule in rules if rule)


def test_page_is_written_as_one_document_that_loads_nothing(tmp_path):
    path = Page("5 < 6", render("<p>{{ text }}</p>", text="é漢😀 \ud800")).write(
        tmp_path / "new" / "page.html"
    )
    document = path.read_text(encoding="utf-8")
    assert document.startswith("<!doctype html>") and "<title>5 &lt; 6</title>" in document
    assert "é漢😀 ?" in document
    assert "http" not in document
    assert [file.name for file in path.parent.iterdir()] == ["page.html"], "no temporary file is left"
