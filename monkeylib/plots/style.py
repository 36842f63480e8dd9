"""The one style of all figures: colours, fonts, and how intervals are drawn. Seaborn draws on it too."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

INK, PALE = "#22303c", "#c9d1d9"
COLOURS = ("#0b6e99", "#e07b39", "#5a9a4a", "#b0437b", "#7d6bb0", "#8a8f98")
STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the same letters on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": mpl.cycler(color=COLOURS),
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "image.interpolation": "nearest",  # a pixel looks like a pixel
    # TrueType: text in a PDF can be searched and copied.
    "pdf.fonttype": 42,
}


def use_style() -> None:
    """Draw every figure from here on in this style."""
    mpl.rcParams.update(STYLE)


def draw_intervals(
    ax: Axes,
    x: Sequence[float],
    y: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    *,
    horizontal: bool = False,
    color: str = INK,
) -> None:
    """Draw an interval through each point, with caps at its ends.

    Args:
        ax: axes that hold the points or bars already.
        x: positions of the points.
        y: positions of the points.
        low: lower ends of the intervals, in the units of y (of x if horizontal).
        high: upper ends of the intervals.
        horizontal: draw the intervals along x.
        color: of the lines.
    """
    # matplotlib takes the distances from the point to both ends: [2, points].
    centre = np.asarray(x if horizontal else y, dtype=float)
    lengths = np.stack([centre - np.asarray(low, dtype=float), np.asarray(high, dtype=float) - centre])

    errors = {"xerr": lengths} if horizontal else {"yerr": lengths}
    ax.errorbar(x, y, **errors, fmt="none", ecolor=color, capsize=3, elinewidth=1)
