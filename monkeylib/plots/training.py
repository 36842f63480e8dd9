"""Training curves."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from monkeylib.reproduce.figures import COLOURS
from monkeylib.tables import Row

_PANELS = {"loss": "cross-entropy per answer token", "exact": "share of answers wholly right"}


def draw_curves(rows: Sequence[Row]) -> Figure:
    """Loss and exact match over the steps taken.

    Args:
        rows: `part` (train or val), `step`, `loss` and `exact`, as `training.logs.read_curves` gives them.
    """
    fig, axes = plt.subplots(1, 2, figsize=(7.4, 2.6))
    for ax, (name, label) in zip(axes, _PANELS.items(), strict=True):
        train, val = ([row for row in rows if row["part"] == part] for part in ("train", "val"))
        steps = [row["step"] for row in train]
        ax.plot(steps, [row[name] for row in train], color=COLOURS[0], alpha=0.45, label="training batches")
        steps = [row["step"] for row in val]
        ax.plot(steps, [row[name] for row in val], color=COLOURS[1], marker="o", label="validation images")
        ax.set_xlabel("training steps")
        ax.set_title(label)
    axes[0].set_ylim(bottom=0)
    axes[1].set_ylim(0, 1)
    axes[0].legend()
    return fig
