"""Explorers on pages without a kernel, and without ipywidgets."""

import base64
import io
import sys

import pytest

from monkeylib.explore.widgets.base import html_table
from monkeylib.images import open_image


def test_every_explorer_has_a_figure_where_there_are_no_widgets(explorers, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    for name, explorer in explorers.items():
        bundle = explorer._repr_mimebundle_()
        assert bundle.keys() == {"text/plain", "image/png"}, name
        image = open_image(io.BytesIO(base64.b64decode(bundle["image/png"])))
        assert len(image.convert("L").getcolors(256 * 256)) > 10, "something is drawn"
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'monkeylib\[explore\]'"):
        explorers["tiles"].widget  # noqa: B018


def test_html_is_text():
    assert "&lt;b&gt;" in html_table([("<b>", 1)])


def test_attention_of_a_token_adds_up(explorers):
    explorer = explorers["attention"]
    names = explorer.token_names()
    assert names[0] == ("all tokens", None) and len(names) == len(explorer.maps.tokens) + 1
    explorer.token = 0
    shares = [float(share.rstrip("%")) for _, share in explorer.shares()]
    assert [name for name, _ in explorer.shares()][-2:] == ["global view", "text"]
    assert sum(shares) == pytest.approx(100, abs=0.5)


def test_figure_of_attention_has_both_scales_and_every_view(explorers):
    explorer = explorers["attention"]
    titles = [ax.get_title("left") for ax in explorer.figure().axes]
    for view in ("tile 0", "tile 3", "global view"):
        assert titles.count(view) == 2, "of all queries, and of one"
    labels = [ax.get_ylabel() for ax in explorer.figure().axes]
    assert [label.split(" on")[0].replace("\n", " ") for label in labels if label] == [
        "attention of a token on a patch, %",
        "attention of a query on a patch, %",
    ]


def test_images_of_attention_carry_their_scale(explorers):
    explorer = explorers["attention"]
    for draw, largest in (
        (explorer.overlay, explorer._largest),
        (explorer.overlay_views, explorer._largest_of_queries),
    ):
        image = draw(200)
        top = [image.getpixel((x, 8)) for x in range(image.width)]
        assert (215, 48, 31) in top, f"the colour of {largest:.2%} stands at the top of the bar"
