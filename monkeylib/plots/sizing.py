"""Where a model's parameters and operations go."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from monkeylib.reproduce.figures import COLOURS

_NARROW = 0.06  # a share below this has no room for its number


def draw_parts(rows: Mapping[str, Mapping[str, int]]) -> Figure:
    """One bar per row, divided among the parts of the model.

    Args:
        rows: what is counted, as in "nano: parameters" -> part -> number; the same parts in every row.
    """
    fig, ax = plt.subplots(figsize=(8, 0.8 + 0.5 * len(rows)))
    short = EngFormatter(places=2)
    parts = list(next(iter(rows.values())))
    for y, numbers in enumerate(rows.values()):
        start, total = 0.0, sum(numbers.values())
        for part, colour in zip(parts, COLOURS, strict=False):
            share = numbers[part] / total
            ax.barh(y, share, left=start, color=colour, label=part if y == 0 else None, height=0.7)
            if share > _NARROW:
                ax.text(start + share / 2, y, f"{share:.0%}", ha="center", va="center", color="white")
            start += share
        ax.text(1.01, y, short(total), va="center")
    ax.set(yticks=range(len(rows)), yticklabels=rows, xlim=(0, 1))
    ax.invert_yaxis()
    ax.grid(False)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    fig.legend(loc="outside upper center", ncols=len(parts))
    return fig
