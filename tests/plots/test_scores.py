import matplotlib.pyplot as plt
import pytest
from matplotlib.collections import LineCollection
from matplotlib.container import BarContainer

from monkeylib.plots.scores import draw_models

NAMES = {"base": "base at 96 px", "monkey": "Monkey at 192 px"}


def row(model, split, value, metric="exact_match"):
    return {"model": model, "split": split, "metric": metric} | {
        "value": value,
        "low": value - 0.1,
        "high": value + 0.05,
    }


ROWS = [
    row("base", "nano-fine", 0.2),
    row("monkey", "nano-fine", 0.6),
    row("base", "nano-large", 0.5),
    row("monkey", "nano-large", 0.55),
    row("base", "nano-caption", 1.5, "cider_d"),
    row("monkey", "nano-caption", 1.75, "cider_d"),
]


def intervals(ax):
    """Ends of the intervals, one list for each group of points."""
    groups = []
    for lines in ax.collections:
        if isinstance(lines, LineCollection):
            groups.append([tuple(segment.T) for segment in lines.get_segments()])
    return groups


def test_models_are_drawn_as_bars_and_each_metric_has_its_axes():
    fig = draw_models(ROWS, NAMES)
    answers, captions = fig.axes
    bars = [bars.datavalues.tolist() for bars in answers.containers if isinstance(bars, BarContainer)]

    assert bars == [pytest.approx([20, 50]), pytest.approx([60, 55])]
    assert [tick.get_text() for tick in answers.get_xticklabels()] == ["small text", "large text"]
    assert answers.get_title(loc="left") + answers.get_title() == "exact match, points"
    assert captions.get_title(loc="left") + captions.get_title() == "CIDEr-D, points"
    assert [text.get_text() for text in fig.legends[0].get_texts()] == list(NAMES.values())
    base_intervals = [tuple(y) for _, y in intervals(answers)[0]]

    assert base_intervals == [pytest.approx((10, 25)), pytest.approx((40, 55))]
    plt.close(fig)


def test_missing_score_raises():
    with pytest.raises(KeyError, match="nano-large"):
        draw_models(ROWS[:3], NAMES)
