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
