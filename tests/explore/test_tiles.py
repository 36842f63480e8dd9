"""What a model sees of an image, and drawings of it."""

import numpy as np
import pytest
import torch

from monkeylib import sizing
from monkeylib.explore.drawing import draw_grid, draw_views, enlarge, grid_choices, overlay_attention
from monkeylib.explore.tiles import displayed_grids, tile_image, to_image
from monkeylib.explore.widgets.tiles import TilesExplorer
from monkeylib.raised_monkey import RaisedMonkey
from monkeylib.raising import raise_resolution
from monkeylib.tiling import Grid
from tests.raising.conftest import noise_image
from tests.support import tiny_vlms


def test_tiled_image(tiled_monkey, make_image):
    tiled = tile_image(tiled_monkey, make_image(0, 120, 60))
    assert (tiled.grid, tiled.size) == (Grid(2, 2), (120, 60))
    assert tiled.tiles.shape == (4, 3, 16, 16) and tiled.joined.shape == (3, 32, 32)
    assert tiled.visual_tokens == 5 * 4
    assert tiled.flops == sizing.count_flops(tiled_monkey.model.config, Grid(2, 2))

    rows = dict(tiled.rows())
    assert (rows["views"], rows["visual tokens"]) == ("5", "20")
    assert rows["stretched"] == "2.00 times along one side"


def test_grids_without_lora_can_be_seen_too(tiled_monkey, image):
    tiled = tile_image(tiled_monkey, image, "3x1")
    assert len(tiled.tiles) == 3 and dict(tiled.rows())["grid"] == "3x1 tiles"
    one_view = tile_image(tiled_monkey, image, (0, 0))
    assert dict(one_view.rows())["grid"] == "one view" and one_view.joined is one_view.global_view
    with pytest.raises(ValueError, match="ROWSxCOLUMNS"):
        tile_image(tiled_monkey, image, "3")


def test_drawn_grid_has_its_borders(tiled_monkey, image):
    tiled = tile_image(tiled_monkey, image)
    plain = np.asarray(enlarge(to_image(tiled.joined), 64)).astype(int)
    changed = np.abs(np.asarray(draw_grid(tiled, 64)).astype(int) - plain).sum(-1) > 0
    assert changed[31:33, 40:].all() and changed[40:, 31:33].all(), "between the tiles"
    assert not changed[56:60, 52:60].any(), "not inside"

    views = draw_views(tiled, 64)
    assert views.height == 2 * 32 + 4 and views.width > 3 * 32


def test_attention_has_a_darker_colour_where_there_is_more(image):
    def brightness(attention, **options):
        overlay = overlay_attention(image, attention, side=80, **options)
        return np.asarray(overlay.convert("L")).astype(int)

    attention = torch.zeros(4, 4)
    attention[3, 0] = 1
    full, none = brightness(attention), brightness(attention * 0)
    half = brightness(attention / 2, maximum=1.0)
    assert full[-10:, :10].mean() < half[-10:, :10].mean() < none[-10:, :10].mean()
    assert (full == none)[:20, 60:].all()


def test_grid_choices():
    assert grid_choices(3) == ["1x1", "1x2", "2x1", "1x3", "3x1"]


@pytest.mark.parametrize("family", tiny_vlms.FAMILIES)
def test_raised_model_is_displayed_with_the_views_that_it_reads(family):
    model, processor, _, tile_size, _ = tiny_vlms.build(family)
    raised = raise_resolution(model, processor, grid="2x3", rank=2, tile_size=tile_size)
    monkey = RaisedMonkey(raised.model, raised.processor)
    image = noise_image(0)

    tiled = tile_image(monkey, image)
    cut, _ = raised.processor.view_settings.cut(image)
    expected = [torch.from_numpy(np.asarray(tile)).permute(2, 0, 1) / 255 for tile in cut[:-1]]
    torch.testing.assert_close(tiled.tiles, torch.stack(expected), atol=1e-5, rtol=0)
    assert tiled.global_view.shape == tiled.tiles.shape[1:] and tiled.grid == Grid(2, 3)
    assert "operations" not in dict(tiled.rows())
    assert tiled.visual_tokens == 7 * raised.settings.tokens_per_view

    one_view = tile_image(monkey, image, (0, 0))
    assert torch.equal(one_view.joined, tiled.global_view)
    with pytest.raises(ValueError, match="no adapters for the tiles of 3x3"):
        tile_image(monkey, image, "3x3")
    assert displayed_grids(monkey, ["1x1", "2x3", "3x3"]) == ["1x1", "2x3"]
    assert TilesExplorer(monkey, image, "2x3").grids == ["auto", "1x1", "1x2", "2x1", "1x3", "2x2", "2x3"]
