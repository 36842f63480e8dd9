import matplotlib.pyplot as plt
import pytest

from monkeylib.plots.training import draw_curves, draw_mix


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_curves_are_those_of_the_log():
    rows = [{"part": "train", "step": n, "loss": 3.0 / n, "exact": n / 10} for n in range(1, 6)]
    rows += [{"part": "val", "step": n, "loss": 2.0, "exact": 0.25} for n in (0, 2, 4)]
    loss, exact = draw_curves(rows).axes
    mean, val = loss.lines

    points = loss.collections[0].get_offsets()
    assert points.tolist() == [[n, pytest.approx(3 / n)] for n in range(1, 6)]
    assert mean.get_ydata()[[0, 1, 4]] == pytest.approx([3, 2.25, (3 + 1.5 + 1 + 0.75 + 0.6) / 5])
    assert val.get_xdata().tolist() == [0, 2, 4] and exact.lines[1].get_ydata().tolist() == [0.25] * 3
    assert exact.get_ylim() == (0, 1) and loss.get_ylim()[0] == 0


def test_curves_of_a_run_that_has_just_begun():
    (loss, _) = draw_curves([{"part": "val", "step": 0, "loss": 2.0, "exact": 0.25}]).axes
    assert len(loss.lines) == 1 and not loss.collections


def test_validation_of_a_longer_training_stands_beside():
    row = {"loss": 1.0, "exact": 0.5}
    rows = [{"part": "val", "step": step, **row} for step in (0, 2)]
    longer = [{"part": part, "step": step, **row} for part in ("train", "val") for step in (2, 4, 6)]
    fig = draw_curves(rows, longer)
    for ax in fig.axes:
        own, beside = ax.lines
        assert (own.get_linestyle(), beside.get_linestyle()) == ("-", "--")
        assert beside.get_xdata().tolist() == [2, 4, 6] and not ax.collections
    (legend,) = fig.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        line.get_label() for line in fig.axes[0].lines
    ]


def test_mix_has_every_dataset_and_shares_of_kinds():
    datasets = [
        {"dataset": "a", "kind": "documents", "records": 3000, "unverified": False},
        {"dataset": "b", "kind": "captions", "records": 1000, "unverified": True},
    ]
    answers = [{"kind": "documents", "answers": 1}, {"kind": "captions", "answers": 1}]
    left, right = draw_mix(datasets, answers, ("captions", "documents"), ("one", "two")).axes
    # In the order of the kinds; a number that is not verified is marked.
    assert [label.get_text() for label in left.get_yticklabels()] == ["b*", "a"]
    assert [text.get_text() for text in right.texts] == ["25%", "75%", "50%", "50%"]
    assert [bar.get_height() for bar in right.patches] == [0.25, 0.75, 0.5, 0.5]
