import matplotlib.pyplot as plt
import pytest

from monkeylib.plots.training import draw_curves


def test_curves_are_those_of_the_log():
    rows = [{"part": "train", "step": n, "loss": 3.0 / n, "exact": n / 10} for n in range(1, 6)]
    rows += [{"part": "val", "step": n, "loss": 2.0, "exact": 0.25} for n in (2, 4)]
    fig = draw_curves(rows)
    loss, exact = fig.axes
    train, val = loss.lines

    assert train.get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert train.get_ydata() == pytest.approx([3, 1.5, 1, 0.75, 0.6])
    assert val.get_xdata().tolist() == [2, 4] and exact.lines[1].get_ydata().tolist() == [0.25, 0.25]
    assert exact.get_ylim() == (0, 1) and loss.get_ylim()[0] == 0
    plt.close(fig)
