import matplotlib.pyplot as plt
import pytest

from monkeylib.plots.scores import draw_models, draw_variants

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


def test_models_stand_side_by_side_and_metrics_apart():
    fig = draw_models(ROWS, NAMES)
    answers, captions = fig.axes
    bars = [c for c in answers.containers if len(getattr(c, "patches", [])) == 2]
    assert [[bar.get_height() for bar in group] for group in bars] == [
        pytest.approx([20, 50]),
        pytest.approx([60, 55]),
    ]
    assert [tick.get_text() for tick in answers.get_xticklabels()] == ["fine print", "large print"]
    assert answers.get_title(loc="left") + answers.get_title() == "exact match, points"
    assert captions.get_title(loc="left") + captions.get_title() == "CIDEr-D, points"
    assert [text.get_text() for text in fig.legends[0].get_texts()] == list(NAMES.values())
    ends = [tuple(point[1] for point in line) for line in answers.collections[0].get_segments()]
    assert ends == [pytest.approx((10, 25)), pytest.approx((40, 55))], "the intervals of the base"
    plt.close(fig)


def test_variants_stand_from_top_to_bottom_with_one_in_another_colour():
    fig = draw_variants(ROWS[:4], NAMES, highlight="monkey")
    fine, large = fig.axes
    assert [bar.get_width() for bar in fine.patches] == pytest.approx([20, 60])
    assert fine.patches[0].get_y() > fine.patches[1].get_y()
    assert fine.patches[0].get_facecolor() != fine.patches[1].get_facecolor()
    assert large.patches[0].get_facecolor() == fine.patches[0].get_facecolor()
    assert fine.get_xlabel() == "exact match, points"
    plt.close(fig)


def test_a_missing_score_is_not_drawn_as_nothing():
    with pytest.raises(KeyError, match="nano-large"):
        draw_models(ROWS[:3], NAMES)
