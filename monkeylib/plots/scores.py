"""Scores with their intervals."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monkeylib.evaluation import benchmarks
from monkeylib.experiments.base_vs_monkey import METRICS
from monkeylib.reproduce.figures import COLOURS, INK
from monkeylib.tables import Row


def draw_models(rows: Sequence[Row], names: Mapping[str, str]) -> Figure:
    """Bars of every model on every split; splits with other metrics have an axis of their own.

    Args:
        rows: score rows (`model`, `split`, `metric`, `value`, `low`, `high`), one per model and split.
        names: the models to draw, in order, and what to call them.
    """
    by_metric: dict[str, list[str]] = {}
    for row in rows:
        splits = by_metric.setdefault(str(row["metric"]), [])
        splits += [row["split"]] if row["split"] not in splits else []
    widths = [len(splits) + 0.6 for splits in by_metric.values()]
    fig, axes = plt.subplots(1, len(by_metric), figsize=(7.4, 2.9), width_ratios=widths, squeeze=False)
    for ax, (metric, splits) in zip(axes[0], by_metric.items(), strict=True):
        _grouped(ax, [row for row in rows if row["metric"] == metric], splits, names)
        ax.set_title(f"{METRICS[metric]}, points")
    axes[0, 0].set_ylim(0, 100)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    return fig


def _grouped(ax: Axes, rows: Sequence[Row], splits: Sequence[str], names: Mapping[str, str]) -> None:
    width = 0.8 / len(names)
    for number, (model, name) in enumerate(names.items()):
        found = {row["split"]: row for row in rows if row["model"] == model}
        values, errors = _points([found[split] for split in splits])
        x = np.arange(len(splits)) + (number - (len(names) - 1) / 2) * width
        ax.bar(x, values, 0.92 * width, color=COLOURS[number], label=name)
        ax.errorbar(x, values, errors, fmt="none", ecolor=INK, capsize=3, elinewidth=1)
    titles = [benchmarks.get(split).title.removeprefix("Nano, ") for split in splits]
    ax.set_xticks(range(len(splits)), titles)
    ax.grid(axis="x", visible=False)
    ax.set_ylim(bottom=0)


def draw_variants(rows: Sequence[Row], names: Mapping[str, str], highlight: str) -> Figure:
    """One horizontal bar per variant and one panel per split.

    Args:
        rows: score rows, one per model and split.
        names: the variants to draw, from top to bottom, and what to call them.
        highlight: the variant that the others are compared with.
    """
    splits = list(dict.fromkeys(str(row["split"]) for row in rows))
    size = (2.6 + 1.9 * len(splits), 0.5 + 0.36 * len(names))
    fig, axes = plt.subplots(1, len(splits), figsize=size, sharey=True)
    y = np.arange(len(names))[::-1]
    for ax, split in zip(np.atleast_1d(axes), splits, strict=True):
        found = {row["model"]: row for row in rows if row["split"] == split}
        values, errors = _points([found[name] for name in names])
        colours = [COLOURS[1] if name == highlight else COLOURS[0] for name in names]
        ax.barh(y, values, 0.7, color=colours)
        ax.errorbar(values, y, xerr=errors, fmt="none", ecolor=INK, capsize=3, elinewidth=1)
        ax.set_yticks(y, list(names.values()))
        ax.set_xlim(left=0)
        ax.grid(axis="y", visible=False)
        ax.set_title(benchmarks.get(split).title.removeprefix("Nano, "))
        metric = benchmarks.get(split).metrics[0]
        ax.set_xlabel(f"{METRICS[metric]}, points")
    return fig


def _points(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Values in points `[n]`, and how far their intervals reach below and above `[2, n]`."""
    value, low, high = (100 * np.array([row[key] for row in rows], float) for key in ("value", "low", "high"))
    return value, np.stack([value - low, high - value])
