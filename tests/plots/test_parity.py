import matplotlib.pyplot as plt

from monkeylib.plots.parity import draw_parity
from monkeylib.plots.style import COLOURS

ROWS = [
    {"quantity": "pixels", "difference": 0.0, "allowed": 1e-6, "holds": True},
    {"quantity": "logits", "difference": 3e-4, "allowed": 2e-4, "holds": False},
    {"quantity": "ids", "difference": 0.0, "allowed": 0, "holds": True},
]


def test_points_are_differences_and_lines_end_at_what_is_allowed():
    (ax,) = draw_parity(ROWS).axes
    lines, points = ax.lines[::2], ax.lines[1::2]
    assert [line.get_xdata()[-1] for line in lines] == [1e-6, 2e-4, 1e-7]
    assert [float(point.get_xdata()[0]) for point in points] == [1e-7, 3e-4, 1e-7]
    assert [text.get_text() for text in ax.texts] == ["0", "0"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["pixels", "logits", "ids"]
    # What does not hold stands out.
    assert [point.get_color() for point in points] == [COLOURS[0], COLOURS[3], COLOURS[0]]
    plt.close("all")
