import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import Polygon, Rectangle
from PIL import Image

from monkeylib.captions.annotations import Caption, DroppedAnnotation, Mask, OcrLine, Record, Region
from monkeylib.experiments.description_levels import FILTERS, LEVELS
from monkeylib.plots import captions as plots
from monkeylib.plots.labels import overlapping_labels


@pytest.fixture(autouse=True)
def _close():
    # Titles stand elsewhere in the figures' style, which other tests may have left.
    with plt.rc_context():
        plt.rcdefaults()
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


def test_levels_of_a_description_tell_what_was_dropped():
    mask = np.zeros((600, 800), dtype=bool)
    mask[:300] = True
    box = (0, 0, 800, 300)
    wall = Region(box=box, text="wall", score=0.2, expert="s", kind="segment", mask=Mask.from_array(mask))
    weak = region("dog", (300, 5, 400, 90), 0.3)
    texts = [line(f"GO {n}", (10, 50 * n, 60, 50 * n + 20)) for n in range(8)]
    caption = Caption(text="a cat", expert="tagger")
    annotated = record(captions=(caption,), regions=(region(), weak, wall), lines=tuple(texts))
    passed = annotated.model_copy(
        update={"regions": annotated.regions[:1], "lines": (texts[7],), "detailed_caption": "A cat. GO 7."}
    )
    fig = plots.draw_description_levels(IMAGE, annotated, passed)

    whole, regions, segments, text, description = fig.axes
    assert [ax.get_title() for ax in fig.axes] == list(plots.DESCRIPTION_LEVELS)
    assert [said.get_text() for said in whole.texts] == ["a cat"]
    assert [(said.get_text(), said.get_color()) for said in regions.texts] == [
        ("cat 0.80", plots.INK),
        ("dog 0.30", plots.DROPPED),
    ]
    assert [box.get_linestyle() for box in regions.patches] == ["-", "--"]
    assert [said.get_color() for said in segments.texts] == [plots.DROPPED]
    # What passed comes first.
    assert text.texts[0].get_text().startswith("“GO 7”") and text.texts[-1].get_text() == "and 3 more"
    assert description.texts[0].get_text() == "A cat. GO 7."


def test_thresholds_have_a_panel_for_each_expert():
    rows = [
        {"expert": expert, "threshold": threshold, "right": 4 - n, "wrong": 2 - n}
        for expert in ("pp-ocr", "seer")
        for n, threshold in enumerate((0.3, 0.6, 0.9))
    ]
    marks = [{"expert": "seer", "calibration": "after", "threshold": 0.75}]
    first, second = plots.draw_thresholds(rows, marks).axes
    assert [first.get_title(), second.get_title()] == [plots.EXPERT_TITLES["pp-ocr"], "seer"]
    assert [list(curve.get_ydata()) for curve in second.lines[:2]] == [[4, 3, 2], [2, 1, 0]]
    assert len(first.lines) + 1 == len(second.lines) and second.lines[-1].get_xdata()[0] == 0.75


def test_levels_have_a_panel_for_each_metric_and_points_for_each_filter():
    metrics = ["object recall", "CIDEr-D"]
    rows = [
        {"level": level, "filter": name, "metric": metric, "value": 0.1 * n, "low": 0.0, "high": 1.0}
        for n, level in enumerate(LEVELS)
        for name in FILTERS
        for metric in metrics
    ]
    fig = plots.draw_levels(rows, metrics, columns=2)
    assert [ax.get_title() for ax in fig.axes] == metrics
    points = fig.axes[0].collections[0].get_offsets()
    assert points[:, 1].tolist() == pytest.approx([0.1 * n for n in range(len(LEVELS))])
    assert len(fig.legends[0].get_texts()) == len(FILTERS)

    with pytest.raises(ValueError, match="no rows of 'charm'"):
        plots.draw_levels(rows, ["charm"])


def test_labels_of_crowded_regions_stand_apart():
    crowd = tuple(
        region(name, (300 + 4 * n, 200, 420, 300 + 3 * n), 0.9 - 0.1 * n)
        for n, name in enumerate(("Egyptian cat", "lynx", "tabby cat", "motorcycle", "binder"))
    )
    fig = plots.draw_annotations([IMAGE], [record(regions=crowd)], columns=1)
    assert overlapping_labels(fig) == []
    assert {text.get_text()[:-5] for text in fig.axes[0].texts if text.get_text()} == {
        part.text for part in crowd
    }


def test_levels_have_their_surest_statement():
    annotated = record(
        captions=(Caption(text="a street", expert="blip2"),),
        regions=(
            region(score=0.4),
            region("dog", score=0.8),
            Region(box=(0, 0, 9, 9), text="paw", score=0.5, expert="sam+tagger", kind="segment"),
        ),
        lines=(line(),),
    )
    assert plots.level_examples(annotated) == [
        ("whole image: blip2", "a street"),
        (f"regions: {region().expert}", "dog 0.80, and 1 more"),
        ("segments: tagger", "paw 0.50"),
        (f"text: {line().expert}", f"“STOP” {line().confidence:.2f}"),
    ]
    assert plots.level_examples(record()) == []
