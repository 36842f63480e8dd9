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
