"""Scores of models and variants, with their intervals."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
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


def draw_radar(rows: Sequence[Row], filled: Sequence[str], other: str = "other models") -> Figure:
    """Draw scores of benchmarks on axes around a circle, each in percent of the best score on it.

    Args:
        rows: a row for each benchmark: its name as `benchmark`, and scores by the name of the model; None
            where there is none.
        filled: the models that are drawn as areas; the best of all others is a point.
        other: what to call these.

    Raises:
        ValueError: there are fewer than three benchmarks on which all filled models have a score.
    """
    rows = [row for row in rows if all(row.get(model) is not None for model in filled)]
    if len(rows) < 3:
        raise ValueError(
            f"a radar needs three benchmarks with scores of {', '.join(filled)}: got {len(rows)}"
        )

    angles = np.linspace(0, 2 * np.pi, len(rows), endpoint=False)
    scores = [{name: float(value) for name, value in _scores_of(row).items()} for row in rows]
    best = [max(values.values()) for values in scores]

    fig, ax = plt.subplots(figsize=(6.4, 6), subplot_kw={"projection": "polar"})
    for model, colour in zip(filled, COLOURS, strict=False):
        shares = [100 * values[model] / top for values, top in zip(scores, best, strict=True)]
        # Closed: the first point once more.
        ax.plot([*angles, angles[0]], [*shares, shares[0]], color=colour, label=model)
        ax.fill(angles, shares, color=colour, alpha=0.12)

    points = []
    for angle, values, top in zip(angles, scores, best, strict=True):
        others = [value for model, value in values.items() if model not in filled]
        if others:
            points.append((angle, 100 * max(others) / top))
    if points:
        ax.plot(*zip(*points, strict=True), "o", color=COLOURS[-1], markersize=4, label=other)

    ax.set(xticks=angles, xticklabels=[row["benchmark"] for row in rows], ylim=(0, 105), yticks=[25, 50, 75])
    ax.set_yticklabels(["25 %", "50 %", "75 %"], color=COLOURS[-1])
    ax.spines["polar"].set_visible(False)
    fig.legend(loc="outside lower center", ncols=len(filled) + 1)
    return fig


def _scores_of(row: Row) -> dict[str, object]:
    """Return the scores of a row, without the name of its benchmark."""
    return {name: value for name, value in row.items() if name != "benchmark" and value is not None}


def draw_paired_differences(rows: Sequence[Row], title: str) -> Figure:
    """Draw paired differences as a forest plot: a point with its interval for each split.

    Args:
        rows: `split`, and `difference`, `low` and `high` as shares.
        title: what minus what, for the axis.
    """
    fig, ax = plt.subplots(figsize=(7, 0.9 + 0.42 * len(rows)))
    places = list(range(len(rows)))
    columns = {name: [100 * float(row[name] or 0) for row in rows] for name in ("difference", "low", "high")}

    ax.axvline(0, color=COLOURS[1], linewidth=1)
    draw_intervals(ax, columns["difference"], places, columns["low"], columns["high"], horizontal=True)
    ax.scatter(columns["difference"], places, color=COLOURS[0], zorder=3)
    ax.set(
        yticks=places,
        yticklabels=[_title(str(row["split"])) for row in rows],
        ylim=(len(rows) - 0.5, -0.5),
        xlabel=title,
    )
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
