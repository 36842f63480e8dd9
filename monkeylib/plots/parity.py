"""Differences from the released code, beside what rounding allows."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from monkeylib.plots.style import COLOURS, INK
from monkeylib.tables import Row

_SMALLEST = 1e-7  # differences below it, and none at all, are drawn here


def draw_parity(rows: Sequence[Row]) -> Figure:
    """Draw the largest difference of each quantity as a point, and what is allowed as a line that ends there.

    Args:
        rows: of `experiments.parity.parity_report`.
    """
    fig, ax = plt.subplots(figsize=(7.4, 0.4 + 0.28 * len(rows)))
    for place, row in enumerate(rows):
        allowed, difference = float(row["allowed"] or 0), float(row["difference"] or 0)
        ax.plot([_SMALLEST, max(allowed, _SMALLEST)], [place, place], color=COLOURS[-1], marker="|")
        colour = COLOURS[0] if row["holds"] else COLOURS[3]
        ax.plot(max(difference, _SMALLEST), place, "o", color=colour)
        if difference == 0:
            ax.annotate("0", (_SMALLEST, place), (7, 3), textcoords="offset points", color=INK, fontsize=8)

    ax.set_xscale("log")
    ax.set_yticks(range(len(rows)), [str(row["quantity"]) for row in rows])
    ax.invert_yaxis()
    ax.set_xlabel("largest difference from the released code (point), and what rounding allows (line)")
    return fig
