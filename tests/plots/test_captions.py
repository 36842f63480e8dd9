import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import Polygon, Rectangle
from PIL import Image

from monkeylib.captions.annotations import DroppedAnnotation, Mask, OcrLine, Record, Region
from monkeylib.experiments.description_levels import FILTERS, LEVELS
from monkeylib.plots import captions as plots
from monkeylib.plots.labels import overlapping_labels


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def line(text="STOP", box=(10, 20, 60, 40)) -> OcrLine:
    x0, y0, x1, y1 = box
    quad = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    return OcrLine(quad=quad, text=text, confidence=0.9, expert="reader")


def region(text="cat", box=(5, 5, 50, 90), score=0.8) -> Region:
    return Region(box=box, text=text, score=score, expert="seer")


def record(**more) -> Record:
    return Record(name="a.png", width=800, height=600, **more)


IMAGE = Image.new("RGB", (800, 600), "white")
GONE = DroppedAnnotation(text="ST0P", box=(100, 110, 160, 130), expert="reader", reason="confidence 0.40")


def corners(patch: Rectangle) -> tuple[float, ...]:
    return *patch.get_xy(), patch.get_x() + patch.get_width(), patch.get_y() + patch.get_height()


def test_annotations_and_dropped_annotations_are_boxed():
    turned = OcrLine(quad=((10, 10), (50, 30), (40, 50), (0, 30)), text="UP", confidence=0.9, expert="reader")
    annotated = record(regions=(region(),), lines=(turned,), dropped=(GONE,))
    ax = plots.draw_annotations([IMAGE], [annotated], columns=1).axes[0]
    boxes = [patch for patch in ax.patches if isinstance(patch, Rectangle)]

    assert {corners(box): box.get_linestyle() for box in boxes} == {
        annotated.regions[0].box: "-",
        GONE.box: "--",
    }
    (quad,) = (patch for patch in ax.patches if isinstance(patch, Polygon))

    assert [tuple(corner) for corner in quad.get_xy()[:4]] == list(turned.quad)


def test_large_image_is_drawn_small_in_its_own_coordinates():
    ax = plots.draw_annotations([IMAGE], [record()]).axes[0]

    assert ax.images[0].get_array().shape == (300, 400, 3)
    assert ax.images[0].get_extent() == [0, 800, 600, 0]
    assert IMAGE.size == (800, 600)


def test_repeated_region_names_are_written_once():
    coins = tuple(region("clock", (x, 10, x + 20, 30), score) for x, score in ((10, 0.9), (40, 0.7)))
    annotated = record(regions=(*coins, region("dog", (600, 200, 700, 590))))
    ax = plots.draw_annotations([IMAGE], [annotated]).axes[0]
    labels = {text.get_text(): (*text.get_position(), text.get_ha(), text.get_va()) for text in ax.texts}

    assert labels.pop("2 x clock") == (10, 30, "left", "top")
    assert labels.pop("dog 0.80") == (700, 590, "right", "bottom")
    assert set(labels) == {""}  # no text was read


@pytest.mark.parametrize(
    ("texts", "below"),
    [
        ([], ""),
        (["one", "two", "three"], "one\ntwo\nthree"),
        (["one", "two", "three", "four"], "one\ntwo\nand 2 more"),
        (["x" * 60], "x" * 35 + "…"),
    ],
)
def test_texts_stand_below_the_image_in_reading_order(texts, below):
    lines = [line(text, (10, 50 * row, 90, 50 * row + 20)) for row, text in enumerate(texts)]
    ax = plots.draw_annotations([IMAGE], [record(lines=tuple(reversed(lines)))]).axes[0]

    assert ax.texts[-1].get_text() == below


def test_read_text_stands_at_its_place_and_dropped_text_is_crossed_out():
    annotated = record(lines=(line(box=(10, 20, 60, 40)), line("GO", (200, 300, 260, 340))), dropped=(GONE,))
    fig = plots.draw_ocr([IMAGE], [annotated])
    above, below = fig.axes

    assert above.get_xlim() == below.get_xlim() and above.get_ylim() == below.get_ylim() == (600, 0)
    texts = {text.get_text(): text for text in below.texts}

    assert texts["STOP"].get_position() == (10, 30) and texts["GO"].get_position() == (200, 320)
    assert texts["GO"].get_fontsize() == pytest.approx(2 * texts["STOP"].get_fontsize())
    assert texts["ST0P"].get_color() != texts["STOP"].get_color()
    (crossing,) = below.lines

    assert list(crossing.get_xdata()) == [100, 160] and list(crossing.get_ydata()) == [120, 120]


def test_released_overlap_stays_high_for_separate_boxes():
    fig = plots.draw_overlap(0.1)
    curves = {curve.get_label(): curve.get_xydata() for curve in fig.axes[0].lines}

    def at(name: str, shift: float) -> float:
        return float(np.interp(shift, *curves[name].T))

    assert at("correct", 0) == at("released code", 0) == 1
    assert at("correct", 1) == at("correct", 2.5) == 0
    assert at("released code", 1) == pytest.approx(0.83, abs=0.005)
    assert at("released code", 2.5) == pytest.approx(0.63, abs=0.005)


def test_segments_are_coloured_small_over_large():
    image = Image.new("RGB", (40, 30), (120, 120, 120))
    large = np.zeros((30, 40), dtype=bool)
    large[:, :20] = True
    small = np.zeros((30, 40), dtype=bool)
    small[5:9, 5:9] = True
    regions = [
        Region(box=box, text=text, score=0.5, expert="s", kind="segment", mask=Mask.from_array(mask))
        for box, text, mask in [((5, 5, 9, 9), "dot", small), ((0, 0, 20, 30), "", large)]
    ]

    pixels = plots.colour_segments(image, regions)
    assert pixels.shape == (30, 40, 3)
    in_large, in_small, outside = (pixels[position].astype(int) for position in ((0, 0), (6, 6), (0, 35)))
    assert np.ptp(in_large) > 20 and np.ptp(in_small) > 20 and np.ptp(outside) == 0
    assert (in_large != in_small).any()

    fig = plots.draw_segments([image, image], [regions, []], columns=2)
    assert [text.get_text() for ax in fig.axes for text in ax.texts] == ["dot 0.50"]


def test_levels_have_a_panel_for_each_metric_and_a_line_for_each_filter():
    metrics = ["object recall", "CIDEr-D"]
    rows = [
        {"level": level, "filter": name, "metric": metric, "value": 0.1 * n, "low": 0.0, "high": 1.0}
        for n, level in enumerate(LEVELS)
        for name in FILTERS
        for metric in metrics
    ]
    fig = plots.draw_levels(rows, metrics, columns=2)
    assert [ax.get_title() for ax in fig.axes] == metrics
    assert fig.axes[0].lines[0].get_ydata().tolist() == pytest.approx([0.1 * n for n in range(len(LEVELS))])
    assert len(fig.legends[0].get_texts()) == len(FILTERS)

    with pytest.raises(ValueError, match="no rows of 'charm'"):
        plots.draw_levels(rows, ["charm"])


def test_labels_of_crowded_regions_and_segments_stand_apart():
    crowd = tuple(
        region(name, (300 + 4 * n, 200, 420, 300 + 3 * n), 0.9 - 0.1 * n)
        for n, name in enumerate(("Egyptian cat", "lynx", "tabby cat", "motorcycle", "binder"))
    )
    fig = plots.draw_annotations([IMAGE], [record(regions=crowd)], columns=1)
    assert overlapping_labels(fig) == []
    assert {text.get_text()[:-5] for text in fig.axes[0].texts if text.get_text()} == {
        part.text for part in crowd
    }

    fig = plots.draw_segments([IMAGE], [crowd * 3], columns=1)
    assert overlapping_labels(fig) == []
    assert fig.axes[1].texts[0].get_visible()
