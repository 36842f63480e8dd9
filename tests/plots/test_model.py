import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from monkeylib.experiments.attention import AttentionMaps
from monkeylib.plots.model import (
    attention_centres,
    draw_attention,
    draw_features,
    draw_lora_changes,
    draw_query_positions,
    draw_shares,
    principal_colours,
    query_positions,
    total_text,
)
from monkeylib.tiling import Grid


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_bars_are_divided_by_shares_and_labelled_with_their_total():
    fig = draw_shares({"a": {"x": 1_000, "y": 3_000}, "b": {"x": 30, "y": 970}}, ["parameters", "FLOP"])
    (ax,) = fig.axes
    bars = [(bar.get_x(), bar.get_width()) for bar in ax.patches]

    assert bars == [(0, 0.25), (0.25, 0.75), (0, 0.03), (0.03, 0.97)]
    texts = [text.get_text() for text in ax.texts]

    assert texts == [
        "25%",
        "75%",
        "4.00 thousand parameters",
        "97%",
        "1.00 kFLOP",
    ]  # 3 % has no room for its number
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["x", "y"]


@pytest.mark.parametrize(
    ("total", "unit", "text"),
    [
        (9_708_053_824, "parameters", "9.71 billion parameters"),
        (3_559_280, "parameters", "3.56 million parameters"),
        (12, "parameters", "12 parameters"),
        (39.09e12, "FLOP", "39.09 TFLOP"),
    ],
)
def test_totals_have_units(total, unit, text):
    assert total_text(total, unit) == text


def test_lora_changes_are_labelled():
    change = torch.tensor([[0.125, 0, 0], [0, 0.0001, 0]])
    (ax,) = draw_lora_changes(change, Grid(1, 2)).axes

    assert [text.get_text() for text in ax.texts] == ["12.5%", "0", "0", "0", "0.0%", "0"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["tile 0", "tile 1", "global"]


def test_principal_colours_follow_the_largest_differences():
    torch.manual_seed(0)
    features = torch.randn(200, 16) * torch.tensor([50.0, 20.0, 10.0] + [0.01] * 13)
    colours = principal_colours(features)

    assert colours.shape == (200, 3) and colours.min() == 0 and colours.max() == 1
    for component in range(3):
        pair = torch.stack([features[:, component], colours[:, component]])
        assert abs(torch.corrcoef(pair)[0, 1]) > 0.9


def test_features_of_tiles_are_drawn_in_place():
    features = torch.randn(3, 4, 8)  # two tiles and the global view, 2 x 2 patches each
    fig = draw_features(torch.rand(3, 8, 16), features, Grid(1, 2))
    image, tiles, global_view = (ax.images[0].get_array() for ax in fig.axes)

    assert image.shape == (8, 16, 3) and tiles.shape == (2, 4, 3) and global_view.shape == (2, 2, 3)
    colours = principal_colours(features.flatten(0, 1)).view(3, 2, 2, 3)

    assert torch.allclose(torch.as_tensor(tiles[:, 2:]), colours[1])
    assert torch.allclose(torch.as_tensor(global_view), colours[2])


def test_query_positions_are_cells_of_a_square_row_by_row():
    assert query_positions(4).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]


def test_attention_centres():
    attention = torch.zeros(3, 2, 4)
    attention[0, 1, 3] = 5  # the last patch
    attention[1] = 1  # everywhere
    attention[2, 0, 0] = attention[2, 0, 1] = 1

    assert attention_centres(attention).tolist() == [[0.875, 0.75], [0.5, 0.5], [0.25, 0.25]]


def test_query_positions_and_attention_are_drawn():
    centres = query_positions(16) + 0.1
    fig = draw_query_positions(torch.rand(16, 6, 6), centres, [5, 10])

    assert [ax.get_title(loc="left") + ax.get_title() for ax in fig.axes[:2]] == [
        "position of query 5",
        "position of query 10",
    ]
    arrows = fig.axes[-1].collections[0]

    assert arrows.U == pytest.approx([0.1] * 16) and arrows.V == pytest.approx([0.1] * 16)


def test_attention_is_drawn_for_all_queries_and_for_single_ones():
    weights = torch.rand(5, 4, 2, 2)
    maps = AttentionMaps(torch.rand(5, 3, 8, 8), weights, Grid(2, 2))
    fig = draw_attention(maps, [1, 3])
    axes = np.reshape(fig.axes[:8], (2, 4))
    titles = [ax.get_title() or ax.get_title(loc="left") for ax in axes[0]]

    assert titles == ["tiles", "all queries", "query 1", "query 3"]
    displayed = axes[0, 2].images[1].get_array()

    assert np.allclose(displayed, maps.over_tiles(1) * 4)  # of a view of 2 x 2 patches
    assert axes[1, 3].images[1].get_array().shape == (2, 2) and axes[0, 0].images[0].get_array().shape == (
        16,
        16,
        3,
    )


def test_attention_has_one_scale_with_a_colour_bar():
    weights = torch.full((2, 4, 2, 2), 0.25)
    weights[0, 1] = torch.tensor([[0.7, 0.1], [0.1, 0.1]])
    fig = draw_attention(AttentionMaps(torch.rand(2, 3, 8, 8), weights, Grid(1, 1)), [1, 3])

    overlays = [ax.images[1] for ax in fig.axes if len(ax.images) == 2]
    assert len(overlays) == 6
    for overlay in overlays:
        assert overlay.get_clim() == (0, pytest.approx(2.8))
    assert fig.axes[-1].get_ylabel() == "attention, times even attention"
