import matplotlib.pyplot as plt
import pytest

from monkeylib.plots.labels import overlapping_labels, separate_labels


@pytest.fixture()
def ax():
    _, ax = plt.subplots(figsize=(3, 3))
    ax.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
    yield ax
    plt.close("all")


def test_labels_that_share_more_than_a_touch_overlap(ax):
    ax.text(0.2, 0.5, "one")
    ax.text(0.25, 0.5, "two")
    ax.text(0.2, 0.8, "far away")
    ax.set_title("a title")
    assert overlapping_labels(ax.figure) == [("one", "two")]


def test_texts_that_are_not_drawn_do_not_overlap(ax):
    ax.set(xticks=[0.1, 0.11], xticklabels=["long label", "another one"])
    assert overlapping_labels(ax.figure) == [("long label", "another one")]
    ax.set_axis_off()
    assert overlapping_labels(ax.figure) == []


def test_turned_labels_of_one_axis_stand_apart(ax):
    ax.set_xticks([0.3, 0.5], ["a long label", "another label"], rotation=35, ha="right")
    assert overlapping_labels(ax.figure) == []


def test_labels_are_moved_apart_and_into_the_axes(ax):
    first, second, third = (
        ax.text(x, 0.5, name) for x, name in ((0.4, "one"), (0.42, "two"), (0.95, "wide label"))
    )
    separate_labels([first, second, third])

    assert overlapping_labels(ax.figure) == []
    assert first.get_position() == (0.4, 0.5)
    assert second.get_position()[0] == pytest.approx(0.42) and second.get_position()[1] != 0.5
    assert third.get_window_extent().x1 <= ax.get_window_extent().x1


def test_label_without_room_is_hidden(ax):
    labels = [ax.text(0.1, 0.5, "the same name", fontsize=20) for _ in range(30)]
    separate_labels(labels)

    visible = [label for label in labels if label.get_visible()]
    assert labels[0] in visible and 2 < len(visible) < 30
    assert overlapping_labels(ax.figure) == []
    separate_labels([])


@pytest.mark.parametrize("draw", ["plot", "scatter"])
def test_label_on_a_marker_is_found_and_one_beside_it_is_not(ax, draw):
    style = {"marker": "o", "linestyle": ""} if draw == "plot" else {}
    getattr(ax, draw)([0.5, 0.2], [0.5, 0.8], **style)
    ax.text(0.5, 0.5, "2", ha="center", va="center")
    ax.text(0.56, 0.56, "beside")
    assert overlapping_labels(ax.figure) == [("2", "marker")]


def test_markers_that_are_not_drawn_cover_nothing(ax):
    ax.plot([0.5, 0.6], [0.5, 0.5])  # no markers, a line alone
    ax.plot([0.5], [0.5], "o", visible=False)
    ax.plot([0.2, 0.5, 0.8], [0.5, 0.5, 0.5], marker="o", markevery=2)
    ax.scatter([0.5, float("nan")], [1.5, 0.5])  # above the axes, and nowhere
    ax.text(0.5, 0.5, "a number", ha="center", va="center", fontsize=6)
    assert overlapping_labels(ax.figure) == []


def test_marker_is_as_large_as_it_is_drawn(ax):
    (point,) = ax.plot([0.5], [0.5], "o", markersize=4)
    ax.text(0.56, 0.5, "label", va="center")
    assert overlapping_labels(ax.figure) == []
    point.set_markersize(40)
    assert overlapping_labels(ax.figure) == [("label", "marker")]


def test_labels_are_moved_off_the_markers(ax):
    ax.scatter([0.5] * 3, [0.4, 0.5, 0.6])
    labels = [ax.text(0.5, y, str(n), ha="center", va="center") for n, y in enumerate((0.4, 0.5, 0.6))]
    assert len(overlapping_labels(ax.figure)) >= 3
    separate_labels(labels)
    assert overlapping_labels(ax.figure) == []
    assert all(label.get_visible() for label in labels)
