"""The style of figures, and intervals."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt

from monkeylib.plots import style


@pytest.fixture()
def ax():
    with mpl.rc_context():
        style.use_style()
        fig, ax = plt.subplots()
        yield ax
        plt.close(fig)


def segments(ax):
    """Return the ends of the lines of all intervals, [points, 2, 2]."""
    (container,) = ax.containers
    (lines,) = container.lines[2]
    return np.array(lines.get_segments())


def test_style_reaches_every_figure(ax):
    assert not ax.spines["top"].get_visible() and ax.spines["left"].get_visible()
    assert mpl.rcParams["pdf.fonttype"] == 42
    (line,) = ax.plot([0, 1])
    assert line.get_color() == style.COLOURS[0]


def test_intervals_reach_from_their_lower_to_their_upper_ends(ax):
    style.draw_intervals(ax, [0, 1], [5, 6], [4, 5.5], [7, 9])
    assert segments(ax).tolist() == [[[0, 4], [0, 7]], [[1, 5.5], [1, 9]]]


def test_horizontal_intervals_lie_along_x(ax):
    style.draw_intervals(ax, [5], [0], [4], [7], horizontal=True)
    assert segments(ax).tolist() == [[[4, 0], [7, 0]]]
