"""Records and annotations for tests of the caption pipeline."""

from hypothesis import strategies as st

from monkeylib.captions.annotations import OcrLine, Record, Region


def region(text="cat", box=(10, 10, 50, 60), score=0.9, expert="e", **more) -> Region:
    return Region(text=text, box=box, score=score, expert=expert, **more)


def line(text="STOP", box=(10, 10, 60, 20), confidence=0.95) -> OcrLine:
    x0, y0, x1, y1 = box
    return OcrLine(
        text=text, quad=((x0, y0), (x1, y0), (x1, y1), (x0, y1)), confidence=confidence, expert="ocr"
    )


def record(**more) -> Record:
    """Return the record of an image of 100 x 100 pixels."""
    return Record(**{"name": "a.png", "sha256": "0" * 64, "width": 100, "height": 100, **more})


@st.composite
def boxes_within(draw, side: int):
    """Boxes with whole numbers inside a square image."""
    x0, y0 = draw(st.integers(0, side - 1)), draw(st.integers(0, side - 1))
    return x0, y0, draw(st.integers(x0 + 1, side)), draw(st.integers(y0 + 1, side))


regions = st.builds(
    region, text=st.sampled_from(["cat", "dog"]), box=boxes_within(100), score=st.floats(0, 1)
)
