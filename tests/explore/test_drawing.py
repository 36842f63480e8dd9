"""Attention as images: all on one scale, which stands beside them."""

import numpy as np
import pytest
import torch
from PIL import Image

from monkeylib.experiments.attention import AttentionMaps
from monkeylib.explore.drawing import COLOUR_MAP, add_colour_bar, overlay_attention, overlay_views
from monkeylib.tiling import Grid


def colour(strength):
    return tuple((np.array(COLOUR_MAP(strength)[:3]) * 255).astype(np.uint8).tolist())


def test_colour_bar_begins_with_none_and_ends_with_most():
    image = Image.new("RGB", (60, 120), "blue")
    drawn = add_colour_bar(image, 0.5)
    assert drawn.crop((0, 0, 60, 120)).tobytes() == image.tobytes()

    column = [drawn.getpixel((60 + 14 + 5, y)) for y in range(drawn.height)]
    assert colour(1.0) in column[:12] and colour(0.0) in column[-12:]
    assert column.index(colour(1.0)) < len(column) // 4


def test_numbers_of_a_colour_bar_are_those_of_its_colours():
    """Colours follow the square root: half-way up the bar stands a quarter of the largest attention."""
    view = Image.new("RGB", (8, 8), "white")
    attention = torch.full((4, 4), 0.1)
    drawn = overlay_attention(view, attention, maximum=0.4, side=64)
    assert drawn.getpixel((32, 32)) == pytest.approx(colour(0.5), abs=2)


@pytest.mark.parametrize(("grid", "views"), [((2, 2), 5), ((1, 2), 2), ((0, 0), 1)])
def test_views_of_any_grid_share_one_scale(grid, views):
    weights = torch.zeros(views, 2, 4, 4)
    weights[:, 0, 0, 0] = 0.1
    weights[-1, 0, 0, 0] = 0.4
    maps = AttentionMaps(torch.ones(views, 3, 8, 8), weights, Grid(*grid))

    drawn = overlay_views(maps, 0, 0.4, 96)
    corner = drawn.getpixel((2, 2))
    assert corner == pytest.approx(colour(1.0 if views == 1 else 0.5), abs=2)
    assert overlay_views(maps, 1, 0.4, 96).getpixel((2, 2)) == (255, 255, 255)
    assert overlay_views(maps, None, 0.4, 96).getpixel((2, 2)) != corner
