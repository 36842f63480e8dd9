"""Training curves."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from monkeylib.plots.style import COLOURS
from monkeylib.tables import Row

_PANELS = {"loss": "cross-entropy per answer token", "exact": "share of answers exactly right"}


def draw_curves(rows: Sequence[Row]) -> Figure:
    """Draw loss and exact match over the training steps.

    Args:
        rows: `part` (train or val), `step`, `loss` and `exact`, as the training log has them.
    """
    frame = pd.DataFrame(rows)
    training, validation = (frame[frame["part"] == part] for part in ("train", "val"))
    options = {"x": "step", "estimator": None, "legend": False}  # as logged: nothing is averaged

    fig, axes = plt.subplots(1, 2, figsize=(7.4, 2.6))
    for ax, (name, title) in zip(axes, _PANELS.items(), strict=True):
        curve = {"y": name, "ax": ax, **options}
        sns.lineplot(training, color=COLOURS[0], alpha=0.45, label="training batches", **curve)
        sns.lineplot(validation, color=COLOURS[1], marker="o", label="validation images", **curve)
        ax.set(xlabel="training steps", ylabel="", title=title)

    # The loss starts at 0, exact match covers its whole range.
    axes[0].set_ylim(bottom=0)
    axes[1].set_ylim(0, 1)
    axes[0].legend()
    return fig
