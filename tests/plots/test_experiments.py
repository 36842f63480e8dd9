import matplotlib.pyplot as plt
import pytest
from matplotlib.collections import LineCollection, PathCollection

from monkeylib.plots import experiments
from monkeylib.plots.labels import overlapping_labels
from monkeylib.plots.style import use_style

NAMES = {"per_tile": "Monkey", "one_view": "one view", "full": "the ViT trains"}


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def score(variant, seed, step, value, split="fine", metric="exact match", condition="as trained"):
    costs = {"flops": 2e9 if variant == "one_view" else 5e9, "visual_tokens": 64}
    cell = {"variant": variant, "rendering": "ordinary", "seed": seed}
    scores = {"split": split, "metric": metric, "value": value, "n": 10, "condition": condition}
    return cell | {"step": step} | scores | costs


ROWS = [
    score("per_tile", 0, 0, 0.25),
    score("per_tile", 0, 10, 0.5),
    score("per_tile", 1, 0, 0.25),
    score("per_tile", 1, 10, 0.75),
    score("per_tile", 1, 10, 0.1, condition="permuted"),
    score("one_view", 0, 0, 0),
    score("one_view", 0, 10, 0.125),
    score("per_tile", 0, 10, -0.5, metric="log-likelihood"),
]


def labels_of(fig):
    return [text.get_text() for text in fig.legends[0].get_texts()]


def test_curves_along_records_of_batches_that_differ():
    rows = [row | {"records": 16 * row["step"]} for row in ROWS]
    fig = experiments.draw_learning_curves(rows, NAMES, splits=["fine"], along="records")
    assert fig.axes[-1].get_xlabel() == "training records"
    assert [max(line.get_xdata()) for line in fig.axes[-1].lines] == [160, 160]


def test_curves_are_means_over_seeds_with_their_range():
    fig = experiments.draw_learning_curves(ROWS, NAMES, splits=["fine"])
    likelihood, exact = fig.axes
    monkey, one_view = exact.lines

    assert monkey.get_xdata().tolist() == [0, 10] and monkey.get_ydata().tolist() == [25, 62.5]
    assert one_view.get_ydata().tolist() == [0, 12.5]
    assert likelihood.lines[0].get_ydata().tolist() == [-0.5]
    band = exact.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == (25, 75)


def test_curves_of_this_machine_are_dashed_beside_the_others():
    beside = [score("per_tile", 0, 0, 0.25), score("per_tile", 0, 10, 1)]
    fig = experiments.draw_learning_curves(ROWS, NAMES, splits=["fine"], beside=beside)
    monkey, _, here = fig.axes[1].lines

    assert here.get_ydata().tolist() == [25, 100] and here.get_color() == monkey.get_color()
    assert here.get_linestyle() == "--" and monkey.get_linestyle() == "-"
    assert labels_of(fig) == ["Monkey", "one view", "trained here"]


def test_curves_of_variants_without_runs_are_left_out():
    fig = experiments.draw_learning_curves(ROWS, NAMES)
    assert "the ViT trains" not in labels_of(fig)
    with pytest.raises(ValueError, match="none of these variants has been run: full"):
        experiments.draw_learning_curves(ROWS, {"full": "the ViT trains"})
    with pytest.raises(ValueError, match="has been run"):
        experiments.draw_costs([], NAMES)


def difference(variant, split, value, seeds):
    row = {"variant": variant, "split": split, "seeds": seeds}
    return row | {"difference": value, "low": value - 0.25, "high": value + 0.5}


def test_forest_has_points_intervals_and_says_what_is_not_run():
    rows = [difference("per_tile", "fine", 0.5, 3), difference("full", "fine", -0.5, 1)]
    fig = experiments.draw_differences(rows, NAMES, ["fine", "large"])
    fine, large = fig.axes
    points = [part for part in fine.collections if isinstance(part, PathCollection)]
    lines = [part for part in fine.collections if isinstance(part, LineCollection)]

    assert [part.get_offsets().tolist() for part in points] == [[[0.5, 0]], [[-0.5, 2]]]
    assert [part.get_segments()[0][:, 0].tolist() for part in lines] == [[0.25, 1], [-0.75, 0]]
    # Fewer than three seeds are hollow.
    assert points[1].get_facecolors()[0].tolist() == [1, 1, 1, 1] != points[0].get_facecolors()[0].tolist()
    assert [tick.get_text() for tick in fine.get_yticklabels()] == list(NAMES.values())

    missing = {"fine": [(1, "not run yet")], "large": [(place, "not run yet") for place in range(3)]}
    for ax, expected in zip((fine, large), missing.values(), strict=True):
        assert [(text.get_position()[1], text.get_text()) for text in ax.texts] == expected
    assert large.get_title(loc="left") + large.get_title() == "large text"


def test_claims_have_verdicts_and_clipped_intervals():
    rows = [
        {"claim": "a", "difference": 0.4, "low": 0.3, "high": 0.5, "seeds": 3, "verdict": "supported"},
        {"claim": "b", "difference": 0.1, "low": -9.0, "high": 9.0, "seeds": 2, "verdict": "undecided"},
        {"claim": "c", "difference": None, "low": None, "high": None, "seeds": 0, "verdict": "not run yet"},
    ]
    (ax,) = experiments.draw_claims([{**row, "smallest_effect": 0.1} for row in rows]).axes
    assert [text.get_text() for text in ax.texts] == ["supported", "undecided", "not run yet"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b", "c"]
    assert [bar.get_width() for bar in ax.patches] == [0.1] * 3
    ends = [(line.get_marker(), line.get_xdata()[0]) for line in ax.lines[:4]]
    assert ends == [("|", 0.3), ("|", 0.5), ("<", ax.get_xlim()[0]), (">", ax.get_xlim()[1])]
    points = [part for part in ax.collections if isinstance(part, PathCollection)]
    assert points[0].get_facecolors()[0].tolist() != [1, 1, 1, 1] == points[1].get_facecolors()[0].tolist()


def test_power_falls_with_seeds_and_has_the_effect_of_interest():
    effects = [
        {"seeds": seeds, "seed_spread": spread, "effect": spread / seeds}
        for spread in (0.1, 0.2)
        for seeds in (2, 3)
    ]
    (ax,) = experiments.draw_power(effects, 0.05).axes
    assert [list(line.get_ydata()) for line in ax.lines[:2]] == [[0.05, 0.1 / 3], [0.1, 0.2 / 3]]
    assert ax.lines[2].get_ydata()[0] == 0.05


def test_text_sizes_are_drawn_before_and_after_training():
    rows = [
        {"variant": "per_tile", "moment": moment, "height": height, "value": value}
        for moment, height, value in [
            ("start", 10, 0.25),
            ("end", 12, 1),
            ("end", 10, 0.5),
            ("start", 12, 0.75),
            ("end", 24, 0.9),
        ]
    ]
    fig = experiments.draw_text_sizes(rows, NAMES)
    start, end, large = fig.axes[0].lines

    assert (start.get_xdata().tolist(), start.get_ydata().tolist()) == ([10, 12], [25, 75])
    assert (end.get_xdata().tolist(), end.get_ydata().tolist()) == ([10, 12], [50, 100])
    assert start.get_linestyle() != end.get_linestyle()

    # No line goes where no text has the height.
    assert (large.get_xdata().tolist(), large.get_ydata().tolist()) == ([24], [90])
    assert labels_of(fig) == ["Monkey", "without training", "trained"]


def test_costs_are_those_of_the_last_step():
    flops, tokens = experiments.draw_costs(ROWS, NAMES).axes
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in flops.lines]

    assert points == [(5, 62.5), (2, 12.5)]
    assert [line.get_xdata()[0] for line in tokens.lines] == [64, 64]
    assert [text.get_text().strip() for text in flops.texts] == ["1", "2"]


def test_variants_at_one_place_share_a_label_beside_their_points():
    use_style()  # whose layout has room for the legend
    names = {f"v{number}": f"variant {number}" for number in range(14)}
    rows = [row for row in ROWS if row["variant"] == "per_tile"]
    rows = [row | {"variant": name} for name in names for row in rows]
    fig = experiments.draw_costs(rows, names)

    for ax in fig.axes:
        (label,) = ax.texts
        assert label.get_visible()
        assert label.get_text().replace("\n", " ") == ", ".join(str(number + 1) for number in range(14))
    assert overlapping_labels(fig) == []


def test_lora_weights_are_annotated():
    rows = [
        {"block": 0, "tile": tile, "other": other, "norm": norm, "cosine": cosine}
        for tile, other, norm, cosine in [(0, 0, 1.5, 1), (0, 1, None, -0.25), (1, 1, 2.5, 1)]
    ]
    norms, cosines = experiments.draw_lora_weights(rows).axes

    assert [text.get_text() for text in norms.texts] == ["1.50", "2.50"]
    assert [text.get_text() for text in cosines.texts] == ["-0.25"]
    assert [tick.get_text() for tick in cosines.get_yticklabels()] == ["0 and 1"]
