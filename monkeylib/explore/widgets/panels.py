"""Panels of figures that show attention over images, as the live forms draw it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from monkeylib.explore.drawing import COLOUR_MAP, overlay_attention


def show_overlay(ax: Axes, image: Image.Image, attention: torch.Tensor, maximum: float, title: str) -> None:
    """Show attention `[rows, cols]` over an image; `maximum` has the brightest colour."""
    ax.imshow(overlay_attention(image, attention, maximum))
    ax.set_title(title, parse_math=False)


def add_scale(fig: Figure | SubFigure, axes: Sequence[Axes], maximum: float, of: str) -> None:
    """Add the colour bar of panels that share a scale, and hide the lines around these.

    Args:
        fig: the figure.
        axes: the panels.
        maximum: the attention that has the brightest colour.
        of: whose attention it is, such as "token".
    """
    for ax in axes:
        ax.set_axis_off()
    scale = ScalarMappable(PowerNorm(0.5, 0, 100 * maximum), COLOUR_MAP)
    fig.colorbar(scale, ax=axes, label=f"attention of a {of}\non a patch, %")
