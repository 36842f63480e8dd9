"""Scores of models and variants, with their intervals."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monkeylib.evaluation import benchmarks
from monkeylib.experiments.comparisons import METRIC_TITLES
from monkeylib.plots.style import COLOURS, draw_intervals
from monkeylib.tables import Row


def draw_models(rows: Sequence[Row], names: Mapping[str, str]) -> Figure:
    """Draw bars of every model on every split; splits with different metrics get separate axes.

    Args:
        rows: score rows (`model`, `split`, `metric`, `value`, `low`, `high`), one per model and split.
        names: the models to draw, in order, and what to call them.

    Raises:
        KeyError: a model has no score on a split.
    """
    scores = _points(rows)
    metrics = list(dict.fromkeys(scores["metric"]))

    # Axes as wide as their number of splits, so that all bars are equally wide.
    splits = [scores.loc[scores["metric"] == metric, "split"].nunique() for metric in metrics]
    widths = [count + 0.6 for count in splits]
    fig, axes = plt.subplots(1, len(metrics), figsize=(7.4, 2.9), width_ratios=widths, squeeze=False)

    for ax, metric in zip(axes[0], metrics, strict=True):
        _draw_bars(ax, scores[scores["metric"] == metric], names)
        ax.set_title(f"{METRIC_TITLES[metric]}, points")

    axes[0, 0].set_ylim(0, 100)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    return fig


def _draw_bars(ax: Axes, scores: pd.DataFrame, names: Mapping[str, str]) -> None:
    """Draw a group of bars for each split, one bar per model."""
    splits = list(dict.fromkeys(scores["split"]))
    by_model = {model: _ordered(scores[scores["model"] == model], "split", splits) for model in names}
    drawn = pd.concat(by_model.values())

    # Intervals are in the rows, not to be computed: `errorbar=None`.
    sns.barplot(
        x=drawn["split"].map(_title),
        y=drawn["value"],
        hue=drawn["model"].map(names),
        palette=list(COLOURS[: len(names)]),
        saturation=1,
        gap=0.08,
        errorbar=None,
        legend=True,
        ax=ax,
    )
    ax.get_legend().remove()  # the figure has one for all axes

    # Seaborn draws one container of bars per model, in the order of the palette.
    for bars, of_model in zip(list(ax.containers), by_model.values(), strict=True):
        centres = [bar.get_x() + bar.get_width() / 2 for bar in bars]
        draw_intervals(ax, centres, of_model["value"], of_model["low"], of_model["high"])

    ax.set(xlabel="", ylabel="")
    ax.grid(axis="x", visible=False)
    ax.set_ylim(bottom=0)


def _points(rows: Sequence[Row]) -> pd.DataFrame:
    """Return score rows as a data frame, in points: 100 times the score."""
    frame = pd.DataFrame(rows)
    for column in ("value", "low", "high"):
        frame[column] = 100 * frame[column].astype(float)
    return frame


def _ordered(scores: pd.DataFrame, column: str, order: Sequence[str]) -> pd.DataFrame:
    """Return one row for each value of a column, in the given order; KeyError if one is missing."""
    return scores.set_index(column, drop=False).loc[list(order)]


def _title(split: str) -> str:
    return benchmarks.get(split).title.removeprefix("Nano, ")
