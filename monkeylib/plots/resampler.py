"""Where the resampler's queries belong, and where they look."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from monkeylib.reproduce.figures import COLOURS, PALE


def places(queries: int) -> torch.Tensor:
    """The middle of each query's cell on the queries' square grid: (x, y) `[queries, 2]`, 0 to 1."""
    side = math.isqrt(queries)
    middles = (torch.arange(side) + 0.5) / side
    return torch.stack([middles.repeat(side), middles.repeat_interleave(side)], dim=1)


def centres(attention: torch.Tensor) -> torch.Tensor:
    """Where attention lies on average.

    Args:
        attention: `[..., rows, cols]` over the patches of a view, of any sum.

    Returns:
        (x, y) `[..., 2]`, from 0 to 1 across the view.
    """
    rows, cols = attention.shape[-2:]
    across = attention.sum(-2) @ ((torch.arange(cols) + 0.5) / cols)
    down = attention.sum(-1) @ ((torch.arange(rows) + 0.5) / rows)
    return torch.stack([across, down], dim=-1) / attention.sum((-1, -2))[..., None]


def draw_positions(likeness: torch.Tensor, looks: torch.Tensor, queries: Sequence[int]) -> Figure:
    """How alike a query's position and those of the patches are, and where all queries look.

    Args:
        likeness: `[all queries, rows, cols]`.
        looks: (x, y) `[all queries, 2]`, the centre of each query's attention.
        queries: the queries whose likeness is drawn.
    """
    count = len(queries) + 1
    fig, axes = plt.subplots(1, count, figsize=(2.5 * count, 2.8), squeeze=True)
    own = places(len(likeness))
    for ax, query in zip(axes, queries, strict=False):
        ax.imshow(likeness[query].numpy(), cmap="Blues", extent=(0, 1, 1, 0))
        ax.plot(*own[query], "+", color=COLOURS[1], markersize=10, markeredgewidth=2)
        ax.set_title(f"position of query {query}")
    steps = (looks - own).T
    axes[-1].quiver(*own.T, *steps, angles="xy", scale_units="xy", scale=1, color=COLOURS[0], width=0.008)
    axes[-1].plot(*own.T, ".", color=COLOURS[1], markersize=4)
    axes[-1].set_title("from place to centre of attention")
    for ax in axes:
        ax.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], aspect="equal")
        ax.spines[:].set(visible=True, color=PALE)
        ax.grid(False)
    return fig
