import matplotlib.pyplot as plt
import pytest
from matplotlib.collections import LineCollection
from matplotlib.container import BarContainer

from monkeylib.plots.scores import draw_models, draw_paired_differences, draw_radar

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


def test_radar_is_in_percent_of_the_best_score_of_each_benchmark():
    rows = [
        {"benchmark": "A", "old": 40.0, "base": 30.0, "monkey": 50.0},
        {"benchmark": "B", "old": None, "base": 20.0, "monkey": 10.0},
        {"benchmark": "C", "old": 80.0, "base": 20.0, "monkey": 40.0},
        {"benchmark": "D", "old": 80.0, "base": None, "monkey": 40.0},
    ]
    ax = draw_radar(rows, ["base", "monkey"], "another").axes[0]
    base, monkey, others = ax.lines
    assert base.get_ydata().tolist() == [60, 100, 25, 60] and base.get_label() == "base"
    assert monkey.get_ydata().tolist() == [100, 50, 50, 100]
    assert others.get_ydata().tolist() == [80, 100] and others.get_label() == "another"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["A", "B", "C"]

    with pytest.raises(ValueError, match="three benchmarks with scores of base, monkey: got 2"):
        draw_radar(rows[1:], ["base", "monkey"])


def test_paired_differences_are_points_with_intervals():
    rows = [
        {"split": "nano-fine", "difference": 0.5, "low": 0.4, "high": 0.6},
        {"split": "nano-large", "difference": -0.03, "low": -0.1, "high": 0.02},
    ]
    ax = draw_paired_differences(rows, "points").axes[0]
    assert ax.collections[-1].get_offsets().tolist() == [[50, 0], [-3, 1]]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["small text", "large text"]
