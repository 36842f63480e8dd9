import matplotlib.pyplot as plt
import pytest
import torch

from monkeylib.plots.resampler import centres, draw_positions, places


def test_places_lie_in_the_cells_of_a_square_row_by_row():
    assert places(4).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]


def test_the_centre_of_attention():
    attention = torch.zeros(3, 2, 4)
    attention[0, 1, 3] = 5  # the last patch
    attention[1] = 1  # everywhere
    attention[2, 0, 0] = attention[2, 0, 1] = 1
    assert centres(attention).tolist() == [[0.875, 0.75], [0.5, 0.5], [0.25, 0.25]]


def test_positions_and_looks_are_drawn():
    looks = places(16) + 0.1
    fig = draw_positions(torch.rand(16, 6, 6), looks, [5, 10])
    assert [ax.get_title(loc="left") + ax.get_title() for ax in fig.axes[:2]] == [
        "position of query 5",
        "position of query 10",
    ]
    arrows = fig.axes[-1].collections[0]
    assert arrows.U == pytest.approx([0.1] * 16) and arrows.V == pytest.approx([0.1] * 16)
    plt.close(fig)
