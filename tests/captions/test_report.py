"""The HTML report of captioned images."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from monkeylib.captions import report, totals
from monkeylib.captions.annotations import (
    Caption,
    CaptionCheck,
    DroppedAnnotation,
    Failure,
    Mask,
    OcrLine,
    Provenance,
    Record,
    Region,
)
from monkeylib.captions.input_images import InputImage
from tests.support.caption_records import record


class Tags(HTMLParser):
    """Collects tags and texts, and checks that tags are closed in order."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.tags = []
        self.text = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def parsed(html) -> Tags:
    tags = Tags()
    tags.feed(html)

    assert tags.open == []

    return tags


@pytest.fixture
def captioned_image():
    mask = np.zeros((60, 100), dtype=bool)
    mask[10:50, 20:70] = True
    image = Image.new("RGB", (100, 60), (30, 60, 90))
    record = Record(
        name="<b>.png", sha256="0" * 64, width=100, height=60, original_caption="me & my cat",
        captions=[Caption(text="a room", expert="whole", score=0.5)],
        regions=[
            Region(box=(20, 10, 70, 50), text="a <cat>", score=0.9, match=0.7, expert="seer",
                   mask=Mask.from_array(mask)),
            Region(box=(0, 0, 9, 9), text="corner", score=0.6, expert="cutter", kind="segment"),
        ],
        lines=[OcrLine(quad=((1, 1), (30, 2), (30, 9), (1, 8)), text="STOP", confidence=0.99, expert="ocr")],
        dropped=[
            DroppedAnnotation(
                text="dog", box=(50, 5, 90, 55), expert="seer", reason="match too low", value=0.1
            )
        ],
        detailed_caption="A cat and a unicorn.",
        check=CaptionCheck(grounding=0.5, sentences=1, unsupported=("unicorn",), problems=("too short",)),
    )  # fmt: skip
    return record, InputImage(image, record.name)


def build(captioned_image, **options):
    """Return the report of one record and its image."""
    record, source = captioned_image
    return report.build_report([record], [source], **options)


def test_page_shows_everything_and_escapes_texts(captioned_image):
    tags = parsed(build(captioned_image, title="A & B").html())
    text = " ".join(tags.text)

    for part in ("A & B", "<b>.png", "me & my cat", "a room", "a <cat>", "STOP", "dog", "match too low",
                 "0.90", "0.70", "grounded 50%", "too short", "unicorn"):  # fmt: skip
        assert part in text

    # Names such as "<b>.png" and "a <cat>" are text, not tags.
    assert not tags.all("b") and not tags.all("cat") and len(tags.all("script")) == 1
    assert len(tags.all("mark")) == 1

    (svg,) = tags.all("svg")
    assert svg["viewbox"] == "0 0 100 60" and svg["aria-label"] == "A cat and a unicorn."


def test_boxes_are_in_image_coordinates_and_dropped_ones_dashed(captioned_image):
    tags = parsed(build(captioned_image).html())
    assert {tag["points"]: "stroke-dasharray" in tag for tag in tags.all("polygon")} == {
        "20.0,10.0 70.0,10.0 70.0,50.0 20.0,50.0": False,
        "0.0,0.0 9.0,0.0 9.0,9.0 0.0,9.0": False,
        "1.0,1.0 30.0,2.0 30.0,9.0 1.0,8.0": False,
        "50.0,5.0 90.0,5.0 90.0,55.0 50.0,55.0": True,
    }


def test_labels_and_table_rows_have_the_same_numbers(captioned_image):
    html = build(captioned_image).html()
    rows = re.findall(r'<td class="number">(\d+) <i.*?<td class="text">(.*?)</td>', html, re.DOTALL)

    assert [text for _, text in rows] == ["a &lt;cat&gt;", "corner", "STOP", "dog"]
    # Colour and number of each label, in the order of the rows.
    assert re.findall(r'fill="(#\w+)"/>\s*<text[^>]*>(\d+)</text>', html) == [
        (report.LEVELS[level], number)
        for (number, _), level in zip(rows, ("region", "segment", "line", "dropped"), strict=True)
    ]


def test_smallest_of_nested_boxes_lies_on_top(captioned_image):
    html = build(captioned_image).html()
    titles = [text.split(",")[0] for text in re.findall(r"<title>(.*?)</title></polygon>", html)]
    assert titles == ["a &lt;cat&gt;", "dog", "STOP", "corner"]


sides = st.integers(1, 4000)


@given(sides, sides, st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=12))
def test_labels_stay_inside_and_do_not_overlap_while_there_is_room(width, height, corners):
    size = (width, height)
    boxes = [
        (min(a, c) * width, min(b, d) * height, max(a, c) * width, max(b, d) * height)
        for a, b, c, d in corners
    ]
    label = (width / 12, height / 20)
    places = report.place_labels(boxes, [label] * len(boxes), size)

    assert None not in places, "twelve labels have room"
    for number, (x, y) in enumerate(places):
        assert -1e-6 <= x <= width - label[0] + 1e-6 and -1e-6 <= y <= height - label[1] + 1e-6
        for other_x, other_y in places[:number]:
            apart = abs(x - other_x) >= label[0] - 1e-6 or abs(y - other_y) >= label[1] - 1e-6
            assert apart


def test_labels_without_room_are_left_out_instead_of_covering_others():
    places = report.place_labels([(0, 0, 10, 10)] * 5, [(6, 6)] * 5, (10, 10))
    assert len(places) == 5 and places[0] is not None and places[1:] == [None] * 4
    assert report.place_labels([(0, 0, 3, 3)], [(6, 6)], (3, 3)) == [(0, 0)]


@pytest.mark.parametrize("size", [(14, 25), (100, 60), (9000, 6000), (300, 6000), (6000, 300)])
def test_labels_and_lines_have_one_size_for_any_image(size):
    width, height = size
    region = Region(box=(0, 0, width, height), text="all", score=1, expert="e")
    record = Record(name="a", sha256="0" * 64, width=width, height=height, regions=[region])
    tags = parsed(report.draw_svg(record, Image.new("RGB", size), 480))
    scale = min(report.WIDTH / width, report.HEIGHT / height)
    (text,), outline = tags.all("text"), tags.all("polygon")[-1]

    assert float(text["font-size"]) * scale == pytest.approx(11, rel=0.05)
    assert float(outline["stroke-width"]) * scale == pytest.approx(1.6, rel=0.05)


def test_touching_masks_have_different_colours_and_an_outline():
    # Ten vertical bands of 6 pixels, each touching the next.
    bands = []
    for x in range(0, 60, 6):
        band = np.zeros((20, 60), dtype=bool)
        band[:, x : x + 6] = True
        bands.append(Region(box=(x, 0, x + 6, 20), text="x", score=1, expert="e", mask=Mask.from_array(band)))

    colour_layer = np.asarray(report.draw_masks(bands, (60, 20)))
    colours = [tuple(colour_layer[10, x + 3, :3]) for x in range(0, 60, 6)]

    assert all(first != second for first, second in zip(colours, colours[1:], strict=False))
    # Opaque at the edge of a band, transparent inside.
    assert (colour_layer[:, 6, 3] == 255).all() and colour_layer[10, 8, 3] < 128


def _images(html):
    for kind, data in re.findall(r'href="data:image/(\w+);base64,([^"]+)"', html):
        yield kind, Image.open(io.BytesIO(base64.b64decode(data)))


def test_image_and_mask_are_shrunk_together(captioned_image):
    (kind, image), (other, mask) = _images(build(captioned_image, pixels=50).html())
    assert (kind, image.size, other, mask.size) == ("jpeg", (50, 30), "png", (50, 30))

    # The mask at half the size.
    inside = np.asarray(mask)[:, :, 3] > 0
    assert inside[5:25, 10:35].all() and inside.sum() == 20 * 25


def test_failures_and_missing_images_are_reported(captioned_image, tmp_path):
    missing_image = InputImage(tmp_path / "gone.png", "gone.png")
    failure = Failure(stage="read", error="OSError: <none>")
    failed_record = Record(name="gone.png", failures=[failure])
    other_record, _ = captioned_image
    page = report.build_report([failed_record, other_record], [missing_image, missing_image])
    text = " ".join(parsed(page.html()).text)

    assert "read: OSError: <none>" in text and "there is no image at" in text and "no description" in text


def test_page_is_one_file_and_displayed_by_notebooks(captioned_image, tmp_path):
    page = build(captioned_image)
    path = page.write(tmp_path / "new" / "report.html")
    html = path.read_text(encoding="utf-8")

    assert html.startswith("<!doctype html>") and page._repr_html_() in html
    assert "http" not in html.replace("http-equiv", "")
    # A notebook gets no script, and shows everything without one.
    assert "<script" not in page._repr_html_() and "<article hidden" not in html
    record, source = captioned_image
    with pytest.raises(ValueError, match="a record for each image, got 1 for 2"):
        report.build_report([record], [source] * 2)


def _outcome_records():
    """Return a described image, one without a description, one that failed a check, and a broken one."""
    described = {"detailed_caption": "A cat.", "check": CaptionCheck(grounding=1, sentences=1)}
    problem = CaptionCheck(grounding=1, sentences=1, problems=("a draft was refused: markup",))
    dropped = [
        DroppedAnnotation(text="dog", box=(0, 0, 9, 9), expert="seer", reason=reason, value=0.1)
        for reason in ("score 0.10 is not above 0.4", "score 0.30 is not above 0.4", "it covers 1% of it")
    ]
    models = [
        Provenance(expert="yolox-nano", version="coco-416", licence="Apache-2.0"),
        Provenance(expert="filter", version="2", settings={"thresholds": {"region": 0.4}}),
    ]
    return [
        record(name="a.png", **described, dropped=dropped, provenance=models),
        record(name="b.png"),
        record(name="c.png", detailed_caption="A dog.", check=problem),
        Record(name="d.png", failures=[Failure(stage="read", error="cut off", kind="truncated")]),
    ]


def test_totals_stand_on_top_and_failures_come_first():
    records = _outcome_records()
    images = [InputImage(Image.new("RGB", (100, 100)), item.name) for item in records]
    html = report.build_report(records, images, facts={"seconds": 12, "US$": "0.50"}).html()

    cells = dict(re.findall(r"<tr><td>(.*?)</td><td class=\"number\">(.*?)</td></tr>", html))
    assert cells.items() >= {
        "images": "4", "described": "1", "without a description": "1", "failed a check": "1", "failed": "1",
        "refused by a model or its judge": "1", "seconds": "12", "US$": "0.50", "read: truncated": "1",
        "seer: score not above its threshold": "2", "seer: too small a segment": "1",
        "yolox-nano": "coco-416, Apache-2.0", "thresholds.region": "0.4",
    }.items()  # fmt: skip
    assert re.findall(r'<article data-name="(.*?)"', html) == ["d.png", "c.png", "b.png", "a.png"]
    assert "A demonstration." in html and "yolox-nano are small models" in html
    assert "A demonstration." not in report.build_report(records[1:], images[1:]).html()


def test_report_of_few_holds_the_totals_of_all_and_the_failures():
    records = _outcome_records()
    images = (InputImage(Image.new("RGB", (9, 9)), item.name) for item in records)
    counts, selected, sources = totals.select_for_report(iter(records), images, 2)

    # The two that need attention, in the order of the run.
    assert [item.name for item in selected] == [item.name for item in sources] == ["c.png", "d.png"]
    assert counts.outcomes_in_order() == {
        "failed": 1, "failed a check": 1, "without a description": 1, "described": 1
    }  # fmt: skip


def test_script_knows_every_control_and_attribute():
    html = report.build_report(_outcome_records()[:1], [InputImage(Image.new("RGB", (9, 9)), "a.png")]).html()
    page, _, script = html.partition("<script>")

    names = set(re.findall(r'find\("(\w+)"\)', script))
    assert names == set(re.findall(r'name="(\w+)"', page)) - {"viewport"}
    attributes = set(re.findall(r"dataset\.(\w+)", script))
    assert attributes <= set(re.findall(r"data-(\w+)=", page))
    assert set(re.findall(r'<option value="(\w+)">(?:failures|least|as|by)', page)) == set(
        re.findall(r"^    (\w+): \(a, b\)", script, re.MULTILINE)
    )
