"""Images on figures: alone, and as panels with lines of text and a box."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from PIL import Image

from monkeylib import resources
from monkeylib.boxes import Box
from monkeylib.data.records import Record
from monkeylib.errors import beginning
from monkeylib.plots.style import COLOURS, STYLE

PANEL_WIDTH = 2.3  # inches
_WRAP = 30  # characters across a panel
_LINE_HEIGHT = 0.17  # inches
_BOX_MARGIN = 0.012  # between a box and what it surrounds, as a fraction of the image's width

_SHEET_SIDE = 480  # pixels of an image on a contact sheet
_SHEET_TEXT = 160  # characters of a prompt or an answer


def show_image(ax: Axes, image: Image.Image | torch.Tensor, box: Box | None = None) -> None:
    """Show an image without axes, and a box around a part of it.

    Args:
        ax: where to draw.
        image: a Pillow image, or pixels `[3, H, W]` from 0 to 1.
        box: in pixels of the image.
    """
    if isinstance(image, Image.Image):
        width, pixels = image.width, image
    else:
        width, pixels = image.shape[-1], image.permute(1, 2, 0).numpy()

    ax.imshow(pixels)
    ax.set_axis_off()

    if box is not None:
        draw_box(ax, box, width)


def draw_box(ax: Axes, box: Box, width: int) -> None:
    """Draw a box around a part of an image.

    Args:
        ax: where the image is drawn.
        box: in pixels of the image.
        width: of the image in pixels.
    """
    x0, y0, x1, y1 = box
    margin = _BOX_MARGIN * width
    # The middle of the first pixel lies at 0, its edge at -0.5.
    corner = (x0 - 0.5 - margin, y0 - 0.5 - margin)
    size = (x1 - x0 + 2 * margin, y1 - y0 + 2 * margin)
    ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=COLOURS[1], linewidth=1.5))


def show_heat(ax: Axes, image: torch.Tensor, values: torch.Tensor, highest: float) -> AxesImage:
    """Show values over a pale image, the more opaque the higher they are.

    Args:
        ax: where to draw.
        image: pixels `[3, H, W]` from 0 to 1.
        values: `[rows, cols]` over the image; those below 0 count as 0.
        highest: end of the colour scale, the same for all panels that are to be compared.

    Returns:
        The drawn values, for a colour bar.
    """
    height, width = image.shape[-2:]
    ax.imshow(image.mean(0).numpy(), cmap="gray", vmin=-1, vmax=1)

    values = values.clamp(0, highest)
    opacity = 0.25 + 0.6 * (values / highest).numpy()
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    drawn = ax.imshow(values.numpy(), cmap="magma", vmin=0, vmax=highest, alpha=opacity, extent=extent)
    ax.set_axis_off()
    return drawn


def add_colour_bar(fig: Figure, drawn: AxesImage, axes: Sequence[Axes], label: str) -> None:
    """Add the colour scale of panels that `show_heat` has drawn."""
    bar = fig.colorbar(drawn, ax=axes, shrink=0.8, label=label)
    # As on the images, low values are pale; the bar shows their colours as they are.
    bar.solids.set_alpha(None)


def wrap_lines(lines: Sequence[str]) -> str:
    """Return lines of text, each wrapped to the width of a panel."""
    wrapped = []
    for line in lines:
        wrapped += textwrap.wrap(line, _WRAP) or [""]
    return "\n".join(wrapped)


def write_below(ax: Axes, text: str) -> None:
    """Write text below an image."""
    # Without mathematics: "$5 or $6" is not a formula.
    ax.text(0, -0.03, text, transform=ax.transAxes, va="top", fontsize=8, parse_math=False)


# Panels


@dataclass(frozen=True)
class ImagePanel:
    """An image with a title above, lines below, and a box in its own pixels."""

    image: Image.Image
    title: str
    lines: tuple[str, ...]
    box: Box | None = None


def draw_panels(panels: Sequence[ImagePanel], columns: int = 4) -> Figure:
    """Draw panels side by side, `columns` in a row."""
    rows = max(1, -(-len(panels) // columns))
    texts = [wrap_lines(panel.lines) for panel in panels]

    most_lines = max((text.count("\n") + 2 for text in texts), default=0)
    height = PANEL_WIDTH + _LINE_HEIGHT * most_lines
    fig, axes = plt.subplots(rows, columns, figsize=(PANEL_WIDTH * columns, height * rows), squeeze=False)

    for ax in axes.flat:
        ax.set_axis_off()

    for ax, panel, text in zip(axes.flat, panels, texts, strict=False):
        show_image(ax, panel.image, panel.box)
        ax.set_title(panel.title)
        write_below(ax, text)

    return fig


# Contact sheets of training data


def contact_sheet(records: Sequence[Record], path: str | Path, columns: int = 4) -> Path:
    """Write the first image of each record, with its first prompt and answer, as one PNG.

    Raises:
        BadRecord: an image cannot be opened.
        ValueError: no records, or a path that doesn't end in .png.
    """
    path = resources.to_path(path)
    if not records:
        raise ValueError("there is no image to show: none of the inspected records has an image that opens")
    if path.suffix != ".png":
        raise ValueError(f"a contact sheet is a PNG file, got {path}: let the name end in .png")

    with plt.rc_context(STYLE), resources.atomic_write(path) as temporary:
        sheet = draw_panels([_record_panel(record) for record in records], columns)
        sheet.savefig(temporary, format="png", metadata={"Software": None})
        plt.close(sheet)

    return path


def _record_panel(record: Record) -> ImagePanel:
    image = record.open_images()[0]
    image.thumbnail((_SHEET_SIDE, _SHEET_SIDE))

    prompt, answer = record.turns[0]
    lines = [beginning(prompt.strip(), _SHEET_TEXT), beginning(f"→ {answer}", _SHEET_TEXT)]
    if len(record.turns) > 1:
        lines.append(f"(the first of {len(record.turns)} turns)")

    return ImagePanel(image, record.dataset, tuple(lines))
