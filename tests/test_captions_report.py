"""The page that shows what became of pictures."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from monkeylib.captions import report
from monkeylib.captions.annotations import Caption, Check, Dropped, Failure, Mask, OcrLine, Record, Region
from monkeylib.captions.sources import Source


class Tags(HTMLParser):
    """Collects tags and text, and complains of tags that aren't closed in their order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.seen if name == tag]


def parsed(html) -> Tags:
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    return tags


@pytest.fixture
def shown():
    mask = np.zeros((60, 100), dtype=bool)
    mask[10:50, 20:70] = True
    picture = Image.new("RGB", (100, 60), (30, 60, 90))
    record = Record(
        name="<b>.png", sha256="0" * 64, width=100, height=60, original_caption="me & my cat",
        captions=[Caption(text="a room", expert="whole", score=0.5)],
        regions=[
            Region(box=(20, 10, 70, 50), text="a <cat>", score=0.9, match=0.7, expert="seer",
                   mask=Mask.of(mask)),
            Region(box=(0, 0, 9, 9), text="corner", score=0.6, expert="cutter", kind="segment"),
        ],
        lines=[OcrLine(quad=((1, 1), (30, 2), (30, 9), (1, 8)), text="STOP", confidence=0.99, expert="ocr")],
        dropped=[Dropped(text="dog", box=(50, 5, 90, 55), expert="seer", reason="match too low", value=0.1)],
        detailed_caption="A cat and a unicorn.",
        check=Check(grounding=0.5, sentences=1, unsupported=("unicorn",), problems=("too short",)),
    )  # fmt: skip
    return record, Source(picture, record.name)


def test_the_page_shows_everything_and_takes_no_text_for_markup(shown):
    tags = parsed(report.show([shown[0]], [shown[1]], title="A & B").html())
    text = " ".join(tags.text)
    for part in ("A & B", "<b>.png", "me & my cat", "a room", "a <cat>", "STOP", "dog", "match too low",
                 "0.90", "0.70", "grounded 50%", "too short", "unicorn"):  # fmt: skip
        assert part in text
    assert not tags.all("b") and not tags.all("cat") and not tags.all("script")
    assert len(tags.all("mark")) == 1
    (svg,) = tags.all("svg")
    assert svg["viewbox"] == "0 0 100 60" and svg["aria-label"] == "A cat and a unicorn."


def test_boxes_lie_in_the_pictures_own_coordinates_and_dropped_ones_are_dashed(shown):
    tags = parsed(report.show([shown[0]], [shown[1]]).html())
    assert {tag["points"]: "stroke-dasharray" in tag for tag in tags.all("polygon")} == {
        "20.0,10.0 70.0,10.0 70.0,50.0 20.0,50.0": False,
        "0.0,0.0 9.0,0.0 9.0,9.0 0.0,9.0": False,
        "1.0,1.0 30.0,2.0 30.0,9.0 1.0,8.0": False,
        "50.0,5.0 90.0,5.0 90.0,55.0 50.0,55.0": True,
    }


def test_boxes_and_rows_bear_the_same_numbers(shown):
    html = report.show([shown[0]], [shown[1]]).html()
    on_picture = re.findall(r"<title>(.*?)</title></polygon><text[^>]*>(\d+)</text>", html)
    rows = re.findall(r"<td class=n>(\d+) <i.*?<td class=t>(.*?)</td>", html)
    assert [(number, text.split(",")[0]) for text, number in on_picture] == rows
    assert [text for _, text in rows] == ["a &lt;cat&gt;", "corner", "STOP", "dog"]


def _images(html):
    for kind, data in re.findall(r'href="data:image/(\w+);base64,([^"]+)"', html):
        yield kind, Image.open(io.BytesIO(base64.b64decode(data)))


def test_the_picture_is_made_smaller_and_the_mask_lies_where_it_was_found(shown):
    (kind, picture), (other, mask) = _images(report.show([shown[0]], [shown[1]], pixels=50).html())
    assert (kind, picture.size, other, mask.size) == ("jpeg", (50, 30), "png", (50, 30))
    inside = np.asarray(mask)[:, :, 3] > 0
    assert inside[5:25, 10:35].all() and inside.sum() == 20 * 25


def test_failures_and_missing_pictures_are_shown(shown, tmp_path):
    gone = Source(tmp_path / "gone.png", "gone.png")
    failure = Failure(stage="read", error="OSError: <none>")
    page = report.show([Record(name="gone.png", failures=[failure]), shown[0]], [gone, gone])
    text = " ".join(parsed(page.html()).text)
    assert "read: OSError: <none>" in text and "there is no picture at" in text and "no description" in text


def test_the_page_is_one_file_that_a_notebook_shows_too(shown, tmp_path):
    page = report.show([shown[0]], [shown[1]])
    path = page.write(tmp_path / "new" / "report.html")
    html = path.read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>") and page._repr_html_() in html
    assert "http" not in html.replace("http-equiv", "") and "<script" not in html
    with pytest.raises(ValueError, match="a record for each picture, got 1 for 2"):
        report.show([shown[0]], [shown[1]] * 2)
