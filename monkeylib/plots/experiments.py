"""The grid of experiments: curves, paired differences, text size, cost, and what trained LoRA became.

Every drawing works with the cells that there are: a variant without runs is left out, or named as not run.
"""

import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from monkeylib.evaluation import benchmarks
from monkeylib.plots.labels import separate_labels
from monkeylib.plots.style import COLOURS, INK, draw_intervals
from monkeylib.tables import Row

METRICS = {"log-likelihood": "log-likelihood, nats per character", "exact match": "exact match, %"}
_ALONG = {"step": "training step", "records": "training records"}
_GREY = COLOURS[-1]
_MIN_SEEDS = 3  # of a filled point, as of a verdict
_VERDICTS = {"supported": COLOURS[2], "not supported": COLOURS[1]}  # all others are grey
_CLIPPED = 0.25  # nats per character around all differences: intervals that reach further end in an arrow
_CLOSE = 0.025  # share of an axis: points that are closer have one label
_LABEL_WIDTH = 16  # characters of a label that names many points
_SOLID = {"marker": "o", "markersize": 4}
_DASHED = {"linestyle": "--", "marker": "o", "markersize": 9, "markerfacecolor": "none"}


def draw_learning_curves(
    rows: Sequence[Row],
    names: Mapping[str, str],
    splits: Sequence[str] = ("fine", "large", "general"),
    beside: Sequence[Row] = (),
    along: Literal["step", "records"] = "step",
) -> Figure:
    """Draw scores from step 0 on: lines are means over seeds, bands reach from the lowest to the highest.

    Args:
        rows: rows of the grid's table, of one rendering.
        names: the variants to draw, and what to call them; those without rows are left out.
        splits: the splits, one column of panels each.
        beside: rows of the same variants that this machine has trained, for dashed lines with rings, which
            are seen around the points of lines that they lie on.
        along: the column of the x axis: steps, or the records that were trained on, where batches differ.

    Raises:
        ValueError: none of the variants has rows.
    """
    frame = _select(rows, names)
    size = (2.6 * len(splits) + 0.6, 5 + 0.2 * frame["variant"].nunique())
    fig, axes = plt.subplots(len(METRICS), len(splits), figsize=size, sharex=True, squeeze=False)

    for panels, (metric, title) in zip(axes, METRICS.items(), strict=True):
        for ax, split in zip(panels, splits, strict=True):
            _draw_curves(ax, frame, names, split, metric, along)
            if beside:
                _draw_curves(ax, _select(beside, names), names, split, metric, along, dashed=True)
            ax.set(title=_split_title(split), ylabel="", xlabel="")
        panels[0].set_ylabel(title)
    for ax in axes[-1]:
        ax.set_xlabel(_ALONG[along])

    handles = [
        Line2D([], [], color=_colours(names)[name], marker="o", markersize=4, label=names[name])
        for name in _in_order(frame, names)
    ]
    if beside:
        handles.append(Line2D([], [], color=INK, label="trained here", **_DASHED))
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    return fig


def _draw_curves(
    ax: Axes,
    frame: pd.DataFrame,
    names: Mapping[str, str],
    split: str,
    metric: str,
    along: str,
    dashed: bool = False,
) -> None:
    """Draw the curve of each variant on one split."""
    frame = _in_percent(frame[frame["condition"] == "as trained"])
    drawn = frame[(frame["metric"] == metric) & (frame["split"] == split)]
    for variant in _in_order(drawn, names):
        # Percentiles 0 to 100: from the lowest to the highest seed.
        sns.lineplot(
            drawn[drawn["variant"] == variant],
            x=along,
            y="value",
            errorbar=("pi", 100),
            color=_colours(names)[variant],
            ax=ax,
            **(_DASHED | {"markeredgecolor": _colours(names)[variant]} if dashed else _SOLID),
        )


def draw_differences(
    rows: Sequence[Row],
    names: Mapping[str, str],
    panels: Sequence[str] = ("fine", "large", "general"),
    by: str = "split",
    reference: str = "Monkey",
) -> Figure:
    """Draw paired differences to one variant as a forest plot: points with their intervals.

    Hollow points rest on fewer than three seeds, so that their interval is over images alone. Variants
    without rows are named as not run yet.

    Args:
        rows: `variant`, `difference`, `low`, `high`, `seeds`, and the column of the panels.
        names: the variants to draw, from top to bottom, and what to call them.
        panels: the values that get a panel each.
        by: their column, "split" or "rendering".
        reference: name of the variant that the others are compared with.
    """
    size = (4.2 + 2.2 * len(panels), 1.0 + 0.27 * len(names))
    fig, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)

    for ax, panel in zip(axes[0], panels, strict=True):
        ax.axvline(0, color=COLOURS[1], linewidth=1)
        of_panel = {row["variant"]: row for row in rows if row[by] == panel}
        for place, name in enumerate(names):
            if name in of_panel:
                _draw_difference(ax, place, of_panel[name])
            else:
                ax.text(
                    0.02, place, "not run yet", transform=ax.get_yaxis_transform(), color=_GREY, va="center"
                )
        ax.set_title(_split_title(panel) if by == "split" else f"quadrants {panel}")
        # Small differences have long labels: more of them would touch.
        ax.xaxis.set_major_locator(MaxNLocator(4))

    axes[0, 0].set(yticks=range(len(names)), yticklabels=names.values(), ylim=(len(names) - 0.5, -0.5))
    fig.supxlabel(f"log-likelihood minus that of {reference}, nats per character", fontsize="medium")
    return fig


def _draw_difference(ax: Axes, place: int, row: Row) -> None:
    """Draw a difference as a point with its interval, hollow if it rests on fewer than three seeds."""
    value, low, high, seeds = (float(row[column] or 0) for column in ("difference", "low", "high", "seeds"))
    draw_intervals(ax, [value], [place], [low], [high], horizontal=True)
    ax.scatter(
        value,
        place,
        color=COLOURS[0] if seeds >= _MIN_SEEDS else "white",
        edgecolors=COLOURS[0],
        s=32,
        zorder=3,
    )


def draw_claims(rows: Sequence[Row]) -> Figure:
    """Draw the claims as a forest plot with their verdicts.

    A bar spans from 0 to the smallest effect of interest. Hollow points rest on fewer than three seeds, and
    an interval that reaches beyond the panel ends in an arrow.

    Args:
        rows: `claim`, `difference`, `low`, `high`, `smallest_effect`, `seeds` and `verdict`.
    """
    values = [float(row["difference"]) for row in rows if row["difference"] is not None]
    left, right = min([0.0, *values]) - _CLIPPED, max([0.0, *values]) + _CLIPPED
    fig, ax = plt.subplots(figsize=(8.6, 1.1 + 0.3 * len(rows)))

    for place, row in enumerate(rows):
        ax.barh(place, float(row["smallest_effect"] or 0), 0.9, color=COLOURS[0], alpha=0.18, linewidth=0)
        verdict = str(row["verdict"])
        colour = _VERDICTS.get(verdict, _GREY)
        ax.text(1.01, place, verdict, transform=ax.get_yaxis_transform(), color=colour, va="center")
        if row["difference"] is None:
            continue

        low, high = float(row["low"] or 0), float(row["high"] or 0)
        ax.hlines(place, max(low, left), min(high, right), color=colour)
        for end, edge, marker in ((low, left, "<"), (high, right, ">")):
            is_clipped = end < left if marker == "<" else end > right
            ax.plot(edge if is_clipped else end, place, marker if is_clipped else "|", color=colour)
        filled = int(row["seeds"] or 0) >= _MIN_SEEDS
        point = {"color": colour if filled else "white", "edgecolors": colour}
        ax.scatter(float(row["difference"]), place, s=32, zorder=3, **point)

    ax.axvline(0, color=INK, linewidth=1)
    names = [str(row["claim"]) for row in rows]
    ax.set(yticks=range(len(rows)), yticklabels=names, ylim=(len(rows) - 0.5, -0.5), xlim=(left, right))
    ax.set_xlabel("difference in log-likelihood, nats per character")
    return fig


def draw_power(effects: Sequence[Row], smallest_effect: float) -> Figure:
    """Draw the difference that a grid could tell from 0, by its seeds and how far these differ.

    Args:
        effects: `seeds`, `seed_spread` and `effect`, in nats per character.
        smallest_effect: the smallest one of interest.
    """
    frame = pd.DataFrame(effects)
    spreads = list(dict.fromkeys(frame["seed_spread"]))
    fig, ax = plt.subplots(figsize=(6.4, 3.2))
    options = {"marker": "o", "legend": False, "ax": ax}
    for place, spread in enumerate(spreads):
        line = frame[frame["seed_spread"] == spread]
        label = f"seeds differ by {spread:g}"
        sns.lineplot(line, x="seeds", y="effect", color=COLOURS[place], label=label, **options)
    ax.axhline(smallest_effect, color=INK, linestyle=":", label="smallest effect of interest")
    ax.set(xlabel="seeds", ylabel="detectable difference", yscale="log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_xticks(sorted(frame["seeds"].unique()))
    ax.legend(loc="upper right")
    return fig


# Pixels between two heights of text, with none between, across which nothing is known.
_GAP = 4


def draw_text_sizes(rows: Sequence[Row], names: Mapping[str, str]) -> Figure:
    """Draw exact match against the height of the text that the answer needs, before and after training.

    A line is broken where no text has a height, between small and large text.

    Args:
        rows: `variant`, `moment` ("start" or "end"), `height` in pixels, `value` as a share.
        names: the variants to draw, and what to call them.

    Raises:
        ValueError: none of the variants has rows.
    """
    frame = _select(rows, names)
    colours = _colours(names)
    fig, ax = plt.subplots(figsize=(7.4, 3.4 + 0.2 * frame["variant"].nunique()))

    moments = {"start": ("--", "without training"), "end": ("-", "trained")}
    for variant in dict.fromkeys(frame["variant"]):
        for moment, (line, _) in moments.items():
            drawn = frame[(frame["variant"] == variant) & (frame["moment"] == moment)].sort_values("height")
            parts = (drawn["height"].diff() > _GAP).cumsum()
            for _, part in drawn.groupby(parts):
                colour = colours[variant]
                ax.plot(part["height"], 100 * part["value"], line, color=colour, marker="o", markersize=4)

    ax.set(xlabel="height of the smallest text that the answer needs, pixels", ylabel=METRICS["exact match"])
    ax.set_ylim(-2, 102)
    handles = [Line2D([], [], color=colours[name], label=names[name]) for name in _in_order(frame, names)]
    handles += [Line2D([], [], color=INK, linestyle=line, label=label) for line, label in moments.values()]
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    return fig


def draw_costs(
    rows: Sequence[Row], names: Mapping[str, str], split: str = "fine", hollow: Collection[str] = ()
) -> Figure:
    """Draw exact match after the last step against floating-point operations and visual tokens of an image.

    Args:
        rows: rows of the grid's table, of one rendering.
        names: the variants to draw, and what to call them; a point is the mean over seeds.
        split: the questions.
        hollow: variants that are asked other questions than the rest.

    Raises:
        ValueError: none of the variants has rows.
    """
    frame = _select(rows, names)
    chosen = (frame["condition"] == "as trained") & (frame["metric"] == "exact match")
    frame = _in_percent(frame[chosen & (frame["split"] == split)])
    frame = frame[frame["step"] == frame["step"].max()]
    means = frame.groupby("variant")[["value", "flops", "visual_tokens"]].mean()
    means = means.loc[_in_order(frame, names)]

    size = (8, 3.2 + 0.2 * len(means))
    fig, axes = plt.subplots(1, 2, figsize=size, sharey=True)
    costs = {"flops": (1e9, "GFLOPs per image"), "visual_tokens": (1, "visual tokens per image")}
    labels = []
    for ax, (column, (unit, label)) in zip(axes, costs.items(), strict=True):
        points = [(cost / unit, value) for cost, value in zip(means[column], means["value"], strict=True)]
        for number, (variant, point) in enumerate(zip(means.index, points, strict=True)):
            # More variants than colours that can be told apart: numbers name them.
            fill = "none" if variant in hollow else "full"
            ax.plot(*point, "o", color="C0", fillstyle=fill, label=f"{number + 1} {names[variant]}")
        ax.set(xlabel=label, xlim=(0, 1.25 * max(cost for cost, _ in points)))
        ax.set_title(_split_title(split))

        # One label for points on top of each other, right of them all.
        for group in _neighbours(points, (_CLOSE * ax.get_xlim()[1], _CLOSE * 100)):
            right, heights = max(points[n][0] for n in group), [points[n][1] for n in group]
            text = ax.annotate(
                textwrap.fill(", ".join(str(n + 1) for n in group), _LABEL_WIDTH),
                (right, (min(heights) + max(heights)) / 2),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
            )
            labels.append(text)
    axes[0].set(ylabel=METRICS["exact match"], ylim=(-3, 100))

    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    separate_labels(labels)
    return fig


def _neighbours(points: Sequence[tuple[float, float]], distances: tuple[float, float]) -> Iterator[list[int]]:
    """Yield the numbers of points that lie close to each other, or to others that do, in both directions."""
    rest = list(range(len(points)))
    while rest:
        group = [rest.pop(0)]
        for member in group:  # grows on the way
            near = [
                other
                for other in rest
                if all(abs(points[member][axis] - points[other][axis]) < distances[axis] for axis in (0, 1))
            ]
            group += near
            rest = [other for other in rest if other not in near]
        yield sorted(group)


def draw_lora_weights(rows: Sequence[Row]) -> Figure:
    """Draw the size of each tile's trained LoRA in each block, and how alike those of two tiles are.

    Args:
        rows: rows of `experiments.lora_effect.describe_loras`.
    """
    frame = pd.DataFrame(rows)
    norms = frame[frame["tile"] == frame["other"]].pivot(index="tile", columns="block", values="norm")
    pairs = frame[frame["tile"] < frame["other"]]
    names = [f"{tile} and {other}" for tile, other in zip(pairs["tile"], pairs["other"], strict=True)]
    cosines = pairs.assign(pair=names).pivot(index="pair", columns="block", values="cosine")

    fig, (left, right) = plt.subplots(1, 2, figsize=(8, 1.4 + 0.35 * max(len(norms), len(cosines))))
    options = {"annot": True, "cbar": False}
    sns.heatmap(norms, fmt=".2f", cmap="Blues", vmin=0, ax=left, **options)
    sns.heatmap(cosines, fmt="+.2f", cmap="RdBu_r", vmin=-1, vmax=1, ax=right, **options)

    left.set(title="norm of the LoRA's update", xlabel="block", ylabel="tile")
    right.set(title="cosine of two tiles' updates", xlabel="block", ylabel="tiles")
    for ax in (left, right):
        ax.tick_params(axis="y", rotation=0)
    return fig


def draw_block_loras(rows: Sequence[Row], block: int) -> Figure:
    """Draw the size of each tile's trained LoRA in one block, and how alike those of all tiles are.

    The scale of sizes is that of all blocks, so that drawings of two blocks compare.

    Args:
        rows: rows of `experiments.lora_effect.describe_loras`.
        block: number of the block.

    Raises:
        ValueError: there are no rows of this block.
    """
    frame = pd.DataFrame(rows)
    drawn = frame[frame["block"] == block]
    if drawn.empty:
        raise ValueError(f"there is no LoRA in block {block}: its blocks are {sorted(set(frame['block']))}")
    norms = drawn[drawn["tile"] == drawn["other"]]
    cosines = drawn.pivot(index="tile", columns="other", values="cosine")

    fig, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3.2), width_ratios=(1.2, 1))
    sns.barplot(norms, x="tile", y="norm", color=COLOURS[0], ax=left)
    left.set(
        title=f"block {block}: norm of the LoRA's update", ylim=(0, 1.1 * frame["norm"].max()), ylabel=""
    )
    options = {"annot": True, "fmt": "+.2f", "cmap": "RdBu_r", "vmin": -1, "vmax": 1, "square": True}
    sns.heatmap(cosines, ax=right, cbar_kws={"label": "cosine"}, **options)
    right.set(title=f"block {block}: cosine of two tiles' updates", xlabel="tile", ylabel="tile")
    right.tick_params(axis="y", rotation=0)
    return fig


def _select(rows: Sequence[Row], names: Mapping[str, str]) -> pd.DataFrame:
    """Return the rows of the named variants, in the order of the names."""
    frame = pd.DataFrame(rows)
    frame = frame[frame["variant"].isin(list(names))] if len(frame) else frame
    if frame.empty:
        raise ValueError(f"none of these variants has been run: {', '.join(names)}")

    order = {name: place for place, name in enumerate(names)}
    return frame.sort_values("variant", key=lambda column: column.map(order), kind="stable")


def _in_order(frame: pd.DataFrame, names: Mapping[str, str]) -> list[str]:
    """Return the variants of a frame in the order of the names."""
    present = set(frame["variant"])
    return [name for name in names if name in present]


def _in_percent(frame: pd.DataFrame) -> pd.DataFrame:
    """Return scores with exact match in percent."""
    factors = frame["metric"].map(lambda metric: 100.0 if metric == "exact match" else 1.0)
    return frame.assign(value=frame["value"].astype(float) * factors)


def _colours(names: Mapping[str, str]) -> dict[str, str]:
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}


def _split_title(split: str) -> str:
    return benchmarks.get(f"nano-{split}").title.removeprefix("Nano, ")
