import matplotlib.pyplot as plt
import pytest
import torch

from monkeylib.plots.lora import draw_changes, draw_features, principal_colours
from monkeylib.tiling import Grid


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_unchanged_views_are_said_to_be_unchanged():
    change = torch.tensor([[0.125, 0, 0], [0, 0.0001, 0]])
    (ax,) = draw_changes(change, Grid(1, 2)).axes
    assert [text.get_text() for text in ax.texts] == ["12.5%", "0", "0", "0", "0.0%", "0"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["tile 0", "tile 1", "global"]


def test_colours_tell_features_apart_along_their_largest_differences():
    torch.manual_seed(0)
    features = torch.randn(200, 16) * torch.tensor([50.0, 20.0, 10.0] + [0.01] * 13)
    colours = principal_colours(features)
    assert colours.shape == (200, 3) and colours.min() == 0 and colours.max() == 1
    for component in range(3):
        pair = torch.stack([features[:, component], colours[:, component]])
        assert abs(torch.corrcoef(pair)[0, 1]) > 0.9


def test_features_are_drawn_tile_by_tile_in_place():
    features = torch.randn(3, 4, 8)  # two tiles and the global view, 2 x 2 patches each
    fig = draw_features(torch.rand(3, 8, 16), features, Grid(1, 2))
    image, tiles, whole = (ax.images[0].get_array() for ax in fig.axes)
    assert image.shape == (8, 16, 3) and tiles.shape == (2, 4, 3) and whole.shape == (2, 2, 3)
    colours = principal_colours(features.flatten(0, 1)).view(3, 2, 2, 3)
    assert torch.allclose(torch.as_tensor(tiles[:, 2:]), colours[1])
    assert torch.allclose(torch.as_tensor(whole), colours[2])
