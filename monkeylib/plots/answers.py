"""Where a model looks while it answers: attention of the answer's tokens, and what the answer loses."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import seaborn as sns
import torch
from matplotlib.figure import Figure

from monkeylib.boxes import Box
from monkeylib.experiments.answer_attention import AnswerMaps
from monkeylib.plots.images import add_colour_bar, draw_box, show_heat, show_image
from monkeylib.plots.style import COLOURS, draw_intervals
from monkeylib.tiling import join_tiles


def draw_answer_attention(
    maps: AnswerMaps, box: Box | None = None, most_tokens: int = 11, columns: int = 4
) -> Figure:
    """Draw where each token of an answer looks, over tiles and global view together, on one scale.

    Args:
        maps: attention of an answer.
        box: of the answer in the image, in pixels of the joined tiles.
        most_tokens: how many tokens are drawn, from the first one on.
        columns: panels in a row.
    """
    pixels = join_tiles(maps.resampler.views[: maps.resampler.grid.tiles], maps.resampler.grid)
    width = pixels.shape[-1]
    tokens = range(min(most_tokens, len(maps.tokens)))
    over_image = [maps.over_image(token) for token in tokens]

    # In multiples of what each patch gets if a token's attention to the image is spread evenly.
    relative = [weights / weights.mean() for weights in over_image]
    highest = max(float(weights.max()) for weights in relative)

    rows = -(-(len(relative) + 1) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(2.3 * columns + 0.8, 2.55 * rows), squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()

    show_image(axes.flat[0], pixels, box)
    axes.flat[0].set_title("the image")
    for ax, token, weights in zip(axes.flat[1:], tokens, relative, strict=False):
        drawn = show_heat(ax, pixels, weights, highest)
        if box is not None:
            draw_box(ax, box, width)
        ax.set_title(_title(maps.tokens[token]))

    add_colour_bar(fig, drawn, axes, "attention, times even attention")
    return fig


def _title(token: str) -> str:
    """Return what stands over the panel of a token."""
    if token.startswith("<|"):
        return "(end)"
    return f"“{token}”" if token.strip() else "(space)"


def draw_attention_by_view(maps: AnswerMaps) -> Figure:
    """Draw the share of each token's attention that falls on each tile, the global view, and the text."""
    shares = maps.by_view()
    text = 1 - shares.sum(1, keepdim=True)
    tiles = maps.resampler.grid.tiles
    columns = [
        *(f"tile {tile}" for tile in range(tiles)),
        *["global view"] * (len(shares[0]) - tiles),
        "text",
    ]

    fig, ax = plt.subplots(figsize=(1.3 + 0.95 * len(columns), 1.2 + 0.28 * len(shares)))
    sns.heatmap(
        torch.cat([shares, text], dim=1).numpy(),
        annot=True,
        fmt=".0%",
        cmap="Blues",
        vmin=0,
        vmax=1,
        cbar=False,
        xticklabels=columns,
        yticklabels=[_title(token) for token in maps.tokens],
        ax=ax,
    )
    ax.tick_params(axis="y", rotation=0)
    ax.set_title("Share of a token's attention")
    return fig


def draw_attention_and_occlusion(
    image: torch.Tensor, maps: Mapping[str, torch.Tensor], units: Sequence[str], box: Box | None = None
) -> Figure:
    """Draw maps of different kinds over one image, each on a scale of its own.

    Args:
        image: pixels `[3, H, W]` from 0 to 1.
        maps: title of each panel -> `[rows, cols]` over the image.
        units: what each map is in.
        box: of the answer, in pixels of the image.
    """
    fig, axes = plt.subplots(1, 1 + len(maps), figsize=(2.9 * (1 + len(maps)), 2.5))
    show_image(axes[0], image, box)
    axes[0].set_title("the image")

    for ax, (title, values), unit in zip(axes[1:], maps.items(), units, strict=True):
        drawn = show_heat(ax, image, values, float(values.max()))
        if box is not None:
            draw_box(ax, box, image.shape[-1])
        ax.set_title(title)
        add_colour_bar(fig, drawn, ax, unit)
    return fig


def draw_pointing(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Draw how often each way points at the answer, with intervals.

    Args:
        rows: of `answer_attention.pointing_game`.
    """
    low, high, points = ([100 * row[name] for row in rows] for name in ("low", "high", "points"))
    places = list(range(len(rows)))

    fig, ax = plt.subplots(figsize=(6, 0.9 + 0.4 * len(rows)))
    draw_intervals(ax, points, places, low, high, horizontal=True)
    ax.scatter(points, places, color=COLOURS[0], zorder=3)
    ax.set(
        yticks=places,
        yticklabels=[row["by"] for row in rows],
        ylim=(len(rows) - 0.5, -0.5),
        xlim=(-2, 102),
        xlabel="questions whose highest value lies on the answer, %",
    )
    return fig
