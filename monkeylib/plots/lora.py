"""What the adapters change, and what the vision transformer makes of an image."""

import math

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from monkeylib.plots.tiling import show
from monkeylib.tiling import Grid, join_tiles


def draw_changes(change: torch.Tensor, grid: Grid) -> Figure:
    """Which view changes when one adapter changes.

    Args:
        change: `[adapters, views]`, of each view's features when that adapter alone is changed; the global
            view last.
        grid: rows and columns of the tiles.
    """
    adapters, views = change.shape
    fig, ax = plt.subplots(figsize=(1.6 + 0.9 * views, 1.2 + 0.6 * adapters))
    ax.imshow(change.numpy(), cmap="Blues", vmin=0, vmax=1.4 * float(change.max()), aspect="auto")
    for row in range(adapters):
        for col in range(views):
            value = float(change[row, col])
            ax.text(col, row, f"{value:.1%}" if value else "0", ha="center", va="center")
    names = [f"tile {tile}" for tile in range(grid.tiles)] + ["global"] * (views - grid.tiles)
    ax.set(xticks=range(views), xticklabels=names, yticks=range(adapters))
    ax.set_yticklabels([f"adapter {adapter}" for adapter in range(adapters)])
    ax.set_title("Change of a view's features when one adapter changes")
    ax.grid(False)
    return fig


def principal_colours(features: torch.Tensor) -> torch.Tensor:
    """Features `[n, width]` as colours `[n, 3]`: the first three principal components, each from 0 to 1."""
    centred = features - features.mean(0)
    _, directions = torch.linalg.eigh(centred.T @ centred)  # the largest component comes last
    directions = directions[:, -3:].flip(1)
    scores = centred @ (directions * directions.sum(0).sign())  # an eigenvector's sign is arbitrary
    low, high = torch.quantile(scores, torch.tensor([0.02, 0.98]), dim=0)
    return ((scores - low) / (high - low)).clamp(0, 1)


def draw_features(image: torch.Tensor, features: torch.Tensor, grid: Grid) -> Figure:
    """An image, and its patches' features as colours: those of the tiles put together, and the global view.

    Args:
        image: `[3, H, W]`, values from 0 to 1.
        features: `[tiles + 1, patches, width]`, the global view last.
        grid: rows and columns of the tiles.
    """
    views, patches, _ = features.shape
    side = math.isqrt(patches)
    flat = features.flatten(0, 1)
    colours = principal_colours(flat).view(views, side, side, 3).permute(0, 3, 1, 2)
    fig, axes = plt.subplots(1, 3, figsize=(9, 3.3))
    show(axes[0], image, "image")
    tiles = f"{grid.tiles} tiles: {grid.rows * side} x {grid.cols * side} patches"
    show(axes[1], join_tiles(colours[:-1], grid), tiles)
    show(axes[2], colours[-1], f"global view: {side} x {side} patches")
    return fig
