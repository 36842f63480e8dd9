"""A query of the resampler beside the mean of all, and what cannot be displayed."""

import pytest
import torch

from monkeylib import explore
from monkeylib.explore.widgets.queries import patches_of_half


def test_attention_is_that_of_the_view_and_sums_to_one(explorers):
    explorer = explorers["queries"]
    explorer.view, explorer.query = "tile 1", 2
    query, mean = explorer.attention().values()
    assert torch.equal(query, explorer.maps.weights[1, 2])
    torch.testing.assert_close(mean, explorer.maps.weights[1].mean(0))
    for weights in (query, mean):
        assert float(weights.sum()) == pytest.approx(1, abs=1e-4)


def test_half_of_attention():
    assert patches_of_half(torch.tensor([[0.1, 0.6], [0.2, 0.1]])) == 1
    assert patches_of_half(torch.full((4, 4), 1 / 16)) == 8


def test_views_and_queries_that_are_not_there(tiled_monkey, image):
    with pytest.raises(ValueError, match="'tile 9'"):
        explore.show_queries(tiled_monkey, image, view="tile 9")
    with pytest.raises(ValueError, match="expected a query from 0 to"):
        explore.show_queries(tiled_monkey, image, query=10_000)
