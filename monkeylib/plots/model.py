"""The parts of the model: their sizes, what LoRA changes, patch features, queries and their attention."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import EngFormatter, PercentFormatter

from monkeylib.experiments.attention import AttentionMaps
from monkeylib.plots.images import show_image
from monkeylib.plots.style import COLOURS, PALE
from monkeylib.plots.tiling import show_view
from monkeylib.tiling import Grid, join_tiles

_MIN_LABELLED_SHARE = 0.06  # a narrower bar has no room for its number


# Sizes


def draw_shares(rows: Mapping[str, Mapping[str, int]], units: Sequence[str]) -> Figure:
    """Draw one bar per row, divided among the parts of the model, with its total and unit at the end.

    Args:
        rows: what is counted, as in "nano: parameters" -> part -> number; the same parts in every row.
        units: of each row, see `total_text`.
    """
    fig, ax = plt.subplots(figsize=(8.5, 0.8 + 0.5 * len(rows)))
    parts = list(next(iter(rows.values())))

    for y, (numbers, unit) in enumerate(zip(rows.values(), units, strict=True)):
        total = sum(numbers.values())
        start = 0.0
        for part, colour in zip(parts, COLOURS, strict=False):
            # Bars of one row lie end to end and sum to 1.
            share = numbers[part] / total
            ax.barh(y, share, left=start, color=colour, label=part if y == 0 else None, height=0.7)
            if share > _MIN_LABELLED_SHARE:
                ax.text(start + share / 2, y, f"{share:.0%}", ha="center", va="center", color="white")
            start += share

        ax.text(1.01, y, total_text(total, unit), va="center")

    ax.set(yticks=range(len(rows)), yticklabels=rows, xlim=(0, 1))
    ax.invert_yaxis()
    ax.grid(False)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    fig.legend(loc="outside upper center", ncols=len(parts))
    return fig


def total_text(total: float, unit: str) -> str:
    """Return a number with its unit, as in "9.71 billion parameters" or "39.09 TFLOP".

    >>> total_text(3_559_280, "parameters")
    '3.56 million parameters'
    """
    if unit != "parameters":
        return EngFormatter(unit=unit, places=2)(total)
    for size, name in ((1e9, " billion"), (1e6, " million"), (1e3, " thousand")):
        if total >= size:
            return f"{total / size:.2f}{name} {unit}"
    return f"{total:g} {unit}"


# Per-tile LoRA and patch features


def draw_lora_changes(change: torch.Tensor, grid: Grid) -> Figure:
    """Draw which view's features change when the LoRA of one tile changes.

    Args:
        change: `[LoRAs, views]`, of each view's features when that LoRA alone is changed; the global view
            last.
        grid: rows and columns of the tiles.
    """
    loras, views = change.shape
    labels = [[f"{float(value):.1%}" if value else "0" for value in row] for row in change]
    tiles = [f"tile {tile}" for tile in range(grid.tiles)]

    fig, ax = plt.subplots(figsize=(1.6 + 0.9 * views, 1.2 + 0.6 * loras))
    sns.heatmap(
        change.numpy(),
        annot=labels,
        fmt="",
        cmap="Blues",
        vmin=0,
        vmax=1.4 * float(change.max()),
        cbar=False,
        xticklabels=tiles + ["global"] * (views - grid.tiles),
        yticklabels=[f"LoRA {lora}" for lora in range(loras)],
        ax=ax,
    )
    ax.tick_params(axis="y", rotation=0)
    ax.set_title("Change of a view's features when one LoRA changes")
    return fig


def principal_colours(features: torch.Tensor) -> torch.Tensor:
    """Return features `[n, width]` as colours `[n, 3]`: the first three principal components, 0 to 1 each."""
    centred = features - features.mean(0)

    # Principal directions are eigenvectors of the covariance, the largest last. Their sign is arbitrary.
    _, directions = torch.linalg.eigh(centred.T @ centred)
    directions = directions[:, -3:].flip(1)
    scores = centred @ (directions * directions.sum(0).sign())

    # Scale by the 2 % and 98 % quantiles, so that single outliers do not take all the contrast.
    low, high = torch.quantile(scores, torch.tensor([0.02, 0.98]), dim=0)
    return ((scores - low) / (high - low)).clamp(0, 1)


def draw_features(image: torch.Tensor, features: torch.Tensor, grid: Grid) -> Figure:
    """Draw an image and its patch features as colours: those of the joined tiles, and of the global view.

    Args:
        image: `[3, H, W]`, values from 0 to 1.
        features: `[tiles + 1, patches, width]`, the global view last.
        grid: rows and columns of the tiles.
    """
    views, patches, _ = features.shape
    side = math.isqrt(patches)
    colours = principal_colours(features.flatten(0, 1))
    colours = colours.view(views, side, side, 3).permute(0, 3, 1, 2)  # [views, 3, side, side]

    fig, axes = plt.subplots(1, 3, figsize=(9, 3.3))
    show_view(axes[0], image, "image")
    tiles_title = f"{grid.tiles} tiles: {grid.rows * side} x {grid.cols * side} patches"
    show_view(axes[1], join_tiles(colours[:-1], grid), tiles_title)
    show_view(axes[2], colours[-1], f"global view: {side} x {side} patches")
    return fig


# The resampler's queries


def query_positions(queries: int) -> torch.Tensor:
    """Return the middle of each query's cell on the queries' square grid: (x, y) `[queries, 2]`, 0 to 1."""
    side = math.isqrt(queries)
    middles = (torch.arange(side) + 0.5) / side
    return torch.stack([middles.repeat(side), middles.repeat_interleave(side)], dim=1)


def attention_centres(attention: torch.Tensor) -> torch.Tensor:
    """Return the mean position of attention.

    Args:
        attention: `[..., rows, cols]` over the patches of a view, of any sum.

    Returns:
        (x, y) `[..., 2]`, from 0 to 1 across the view.
    """
    rows, cols = attention.shape[-2:]
    # Mean of the patch centres, weighted by the attention of their column (or row).
    x = attention.sum(-2) @ ((torch.arange(cols) + 0.5) / cols)
    y = attention.sum(-1) @ ((torch.arange(rows) + 0.5) / rows)
    return torch.stack([x, y], dim=-1) / attention.sum((-1, -2))[..., None]


def draw_query_positions(similarity: torch.Tensor, centres: torch.Tensor, queries: Sequence[int]) -> Figure:
    """Draw how similar positions of queries and patches are, and where all queries attend.

    Args:
        similarity: `[all queries, rows, cols]` between the position embeddings of queries and patches.
        centres: (x, y) `[all queries, 2]`, the centre of each query's attention.
        queries: the queries whose similarity is drawn.
    """
    count = len(queries) + 1
    fig, axes = plt.subplots(1, count, figsize=(2.5 * count, 2.8), squeeze=True)
    positions = query_positions(len(similarity))

    for ax, query in zip(axes, queries, strict=False):
        ax.imshow(similarity[query].numpy(), cmap="Blues", extent=(0, 1, 1, 0))
        ax.plot(*positions[query], "+", color=COLOURS[1], markersize=10, markeredgewidth=2)
        ax.set_title(f"position of query {query}")

    # An arrow from each query's position to the centre of its attention.
    steps = (centres - positions).T
    arrows = {"angles": "xy", "scale_units": "xy", "scale": 1, "color": COLOURS[0], "width": 0.008}
    axes[-1].quiver(*positions.T, *steps, **arrows)
    axes[-1].plot(*positions.T, ".", color=COLOURS[1], markersize=4)
    axes[-1].set_title("from position to attention")

    for ax in axes:
        ax.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], aspect="equal")
        ax.spines[:].set(visible=True, color=PALE)
        ax.grid(False)

    return fig


def draw_attention(maps: AttentionMaps, queries: Sequence[int]) -> Figure:
    """Draw the resampler's attention, all queries and single ones, over the tiles and the global view.

    All panels share one scale: a patch's weight in multiples of that of even attention, where each patch of a
    view has the same.

    Args:
        maps: attention over one image.
        queries: numbers of the single queries; the same query of every view is drawn.
    """
    tiles = join_tiles(maps.views[: maps.grid.tiles], maps.grid)
    rows = {"tiles": (tiles, maps.over_tiles), "global view": (maps.views[-1], maps.over_global_view)}
    columns = 2 + len(queries)
    fig, axes = plt.subplots(2, columns, figsize=(1.9 * columns + 0.6, 4.2))

    # Weights of a query sum to 1 over the patches of a view.
    patches = maps.weights.shape[-1] * maps.weights.shape[-2]
    selected = (None, *queries)
    highest = max(
        float(attention_of(query).max()) * patches for _, attention_of in rows.values() for query in selected
    )

    for row, (name, (pixels, attention_of)) in zip(axes, rows.items(), strict=True):
        show_image(row[0], pixels)
        row[0].set_title(name)

        for ax, query in zip(row[1:], selected, strict=True):
            drawn = _overlay(ax, pixels, attention_of(query) * patches, highest)
            ax.set_title("all queries" if query is None else f"query {query}")

    bar = fig.colorbar(drawn, ax=axes, shrink=0.8, label="attention, times even attention")
    # As on the images, what is little attended to is pale.
    bar.solids.set_alpha(None)

    for ax in axes[0]:
        _draw_grid(ax, maps)
    return fig


def _overlay(ax: Axes, pixels: torch.Tensor, attention: torch.Tensor, highest: float) -> AxesImage:
    """Draw attention `[rows, cols]`, from 0 to `highest`, over a pale version of `[3, H, W]`."""
    height, width = pixels.shape[-2:]
    ax.imshow(pixels.mean(0).numpy(), cmap="gray", vmin=-1, vmax=1)

    opacity = 0.25 + 0.6 * (attention / highest).numpy()
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    drawn = ax.imshow(attention.numpy(), cmap="magma", vmin=0, vmax=highest, alpha=opacity, extent=extent)
    ax.set_axis_off()
    return drawn


def _draw_grid(ax: Axes, maps: AttentionMaps) -> None:
    side = maps.views.shape[-1]
    for row in range(1, maps.grid.rows):
        ax.axhline(row * side - 0.5, color=COLOURS[1], linewidth=1)
    for col in range(1, maps.grid.cols):
        ax.axvline(col * side - 0.5, color=COLOURS[1], linewidth=1)
