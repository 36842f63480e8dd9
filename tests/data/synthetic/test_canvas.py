"""Drawing: fonts have their height, glyphs lie in their boxes."""

import importlib.util

import numpy as np
import pytest
from PIL import Image, ImageDraw

from monkeylib.data.synthetic import canvas


@pytest.mark.parametrize("name", canvas.FONTS)
@pytest.mark.parametrize("height", [10, 13, 20, 26])
def test_font_is_as_high_as_its_size(name, height):
    # From the top of a capital to the end of a descender.
    _, top, _, bottom = canvas.font(name, height).getbbox("Ag")
    assert 0.75 * height <= bottom - top <= 1.1 * height


def ink_of(name, height, string, upper=False):
    """Ink of a line of text on an empty sheet, 0 to 1, and the text."""
    sheet = Image.new("L", (420, 60))
    text = canvas.draw_text(ImageDraw.Draw(sheet), (9.3, 11.6), string, name, height, 255, upper)
    return np.asarray(sheet) / 255, text


@pytest.mark.parametrize("name", canvas.FONTS)
@pytest.mark.parametrize("height", [10, 13, 22])
@pytest.mark.parametrize("upper", [False, True])
def test_glyph_boxes_cover_the_ink(name, height, upper):
    for string in ("sunrise 47", "total:", "975-5626", "queen harbor", "jpqgy."):
        ink, text = ink_of(name, height, string, upper)
        covered = np.zeros(ink.shape, bool)
        for glyph in text.glyphs:
            x0, y0, x1, y1 = glyph.box
            covered[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = True
            # Every box has ink in it.
            middle = ink[round(y0) : round(y1), round(x0) : round(x1)]
            assert middle.sum() > 0.3, f"no ink in the box of {glyph.char!r}"

        # Only descenders reach below a box, and kerned ends beside it.
        assert (ink * covered).sum() > (0.8 if string == "jpqgy." else 0.9) * ink.sum(), string
        assert [glyph.char for glyph in text.glyphs] == list(string.replace(" ", ""))


@pytest.mark.parametrize("package", ["matplotlib", "skimage"])
def test_missing_package_names_the_extra(package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=f"{package}: install monkeylib with its extra `synthetic`"):
        canvas.font.__wrapped__("x.ttf", 10) if package == "matplotlib" else canvas.photo_file("x.png")
