"""Training curves, and what is trained on."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from monkeylib.plots.style import COLOURS
from monkeylib.tables import Row

_PANELS = {"loss": "cross-entropy per answer token", "exact": "share of answers exactly right"}
_WINDOW = 5  # logged batches of the running mean


def draw_curves(rows: Sequence[Row], longer: Sequence[Row] = ()) -> Figure:
    """Draw loss and exact match over the training steps.

    Batches of training are points, since each is other images, with their running mean over the last five;
    validation is on the same images each time, from step 0 if that is there.

    Args:
        rows: `part` (train or val), `step`, `loss` and `exact`, as the training log has them.
        longer: those of a longer training, whose validation is drawn dashed beside.
    """
    frame = pd.DataFrame(rows)
    training, validation = (frame[frame["part"] == part] for part in ("train", "val"))
    validation_of_longer = pd.DataFrame([row for row in longer if row["part"] == "val"])

    fig, axes = plt.subplots(1, 2, figsize=(7.8, 2.9))
    for ax, (name, title) in zip(axes, _PANELS.items(), strict=True):
        curve = {"x": "step", "y": name, "ax": ax, "legend": False}
        if len(training):
            sns.scatterplot(training, color=COLOURS[0], alpha=0.45, s=16, label="training batches", **curve)
            smooth = training.assign(**{name: training[name].rolling(_WINDOW, min_periods=1).mean()})
            sns.lineplot(smooth, color=COLOURS[0], estimator=None, label="their running mean", **curve)
        options = {"color": COLOURS[1], "marker": "o", "estimator": None}
        if len(validation):
            sns.lineplot(validation, label="validation images", **options, **curve)
        if len(validation_of_longer):
            options["linestyle"] = "--"
            sns.lineplot(validation_of_longer, label="those of the longer training", **options, **curve)
        ax.set(xlabel="training steps", ylabel="", title=title)

    # The loss starts at 0, exact match covers its whole range.
    axes[0].set_ylim(bottom=0)
    axes[1].set_ylim(0, 1)
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=4)
    return fig


def draw_mix(
    datasets: Sequence[Row], answers: Sequence[Row], kinds: Sequence[str], titles: tuple[str, str]
) -> Figure:
    """Draw the datasets of a mixture by kind, and beside them how two mixtures divide among the kinds.

    Args:
        datasets: those of the first one (`dataset`, `kind`, `records`, `unverified`).
        answers: of the second one (`kind`, `answers`).
        kinds: all kinds, in their order.
        titles: names of the two.
    """
    colours = dict(zip(kinds, COLOURS, strict=False))
    frame = pd.DataFrame(datasets)
    frame["name"] = frame["dataset"] + frame["unverified"].map({True: "*", False: ""})
    frame = frame.sort_values("kind", key=lambda column: column.map(list(kinds).index), kind="stable")
    frame["thousands"] = frame["records"] / 1000

    fig, (left, right) = plt.subplots(1, 2, figsize=(9.2, 4.2), width_ratios=(3, 2))
    options = {
        "hue": "kind",
        "hue_order": list(kinds),
        "palette": colours,
        "dodge": False,
        "legend": False,
        "saturation": 1,
    }
    sns.barplot(frame, x="thousands", y="name", ax=left, **options)
    left.set(xlabel="thousand records (*: number not verified)", ylabel="", title=titles[0])
    left.tick_params(axis="y", labelsize=7.5)

    of_first = frame.groupby("kind")["records"].sum()
    of_second = pd.DataFrame(answers).set_index("kind")["answers"]
    for place, counts in enumerate((of_first, of_second)):
        bottom = 0.0
        for kind in kinds:
            share = float(counts.get(kind, 0) / counts.sum())
            label = kind if place == 0 else None
            right.bar(place, share, 0.6, bottom, color=colours[kind], label=label)
            if share > 0.03:
                right.text(place, bottom + share / 2, f"{share:.0%}", ha="center", va="center", color="white")
            bottom += share
    right.set(xticks=(0, 1), xticklabels=titles, ylabel="share", title="by kind", ylim=(0, 1))
    right.grid(False)
    fig.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=len(kinds))
    return fig
