import matplotlib.pyplot as plt
import pytest

from monkeylib.plots import scaling as plots
from monkeylib.training.memory import StepMemory


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def step(peak, **parts):
    sizes = {"weights": 10, "gradients": 5, "optimizer": 10, "communication": 0} | parts
    gigabytes = {name: int(size * 1e9) for name, size in sizes.items()}
    return StepMemory(**gigabytes, peak=int(peak * 1e9))


def test_memory_adds_up_to_the_peak():
    fig = plots.draw_training_memory({"one": step(40), "four": step(21, weights=2)}, [24, 80])
    (ax,) = fig.axes
    ends = {}
    for bar in ax.patches:
        ends[round(bar.get_y() + bar.get_height() / 2)] = bar.get_x() + bar.get_width()
    assert ends == {0: pytest.approx(40), 1: pytest.approx(21)}

    texts = [text.get_text() for text in ax.texts]
    assert texts == ["40.0 GB", "21.0 GB", "24 GB", "80 GB"]
    assert [line.get_xdata()[0] for line in ax.lines] == [24, 80]
    assert ax.get_xlim()[1] > 80
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "four"]


def test_throughput_stands_beside_that_of_ideal_workers():
    rows = [
        {"workers": 1, "images/s": 2.0, "at work s": 128.0, "run s": 150.0},
        {"workers": 4, "images/s": 7.5, "at work s": 34.0, "run s": 65.0},
    ]
    throughput, seconds = plots.draw_throughput(rows).axes
    ideal, measured = throughput.lines
    assert list(ideal.get_ydata()) == [2, 8] and list(measured.get_ydata()) == [2, 7.5]

    work, others = seconds.containers
    assert [bar.get_height() for bar in work] == [128, 34]
    assert [bar.get_y() + bar.get_height() for bar in others] == [150, 65]
    assert [label.get_text() for label in seconds.get_xticklabels()] == ["1", "4"]
