"""Images with what was asked about them, answered, and looked at."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from monkeylib.boxes import Box
from monkeylib.experiments.attention import Looks
from monkeylib.experiments.qualitative import Case
from monkeylib.reproduce.figures import COLOURS
from monkeylib.tiling import join_tiles

_CARD = 2.3  # width of a card in inches
_WRAP = 30  # characters across a card
_MARK = {True: "✓", False: "✗"}


@dataclass(frozen=True)
class Card:
    """An image with a title above, lines below, and a box in its own pixels."""

    image: Image.Image
    title: str
    lines: tuple[str, ...]
    box: Box | None = None


def card_of(case: Case, title: str = "") -> Card:
    """The question, the label and the answer of each model, with a mark, about the image of a case."""
    given = [f"{_MARK[case.right[model]]} {model}: {text}" for model, text in case.given.items()]
    question = case.asked.question or case.asked.prompt
    return Card(case.image, title, (question, f"label: {case.asked.answers[0]}", *given), case.evidence)


def draw_cards(cards: Sequence[Card], columns: int = 4) -> Figure:
    """Cards side by side, `columns` in a row."""
    rows = max(1, -(-len(cards) // columns))
    texts = [_wrapped(card.lines) for card in cards]
    height = _CARD + 0.17 * max((text.count("\n") + 2 for text in texts), default=0)
    fig, axes = plt.subplots(rows, columns, figsize=(_CARD * columns, height * rows), squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, card, text in zip(axes.flat, cards, texts, strict=False):
        _show(ax, card.image, card.box)
        ax.set_title(card.title)
        _below(ax, text)
    return fig


def draw_resolutions(cases: Mapping[str, Case], sides: Mapping[str, int], names: Mapping[str, str]) -> Figure:
    """One column per case: the image as each model sees it, the evidence boxed, and its answer below.

    Args:
        cases: the title of each column and its case.
        sides: the models from top to bottom, each with the side in pixels of the square that it sees.
        names: what to call the models.
    """
    size = (_CARD * len(cases), len(sides) * (_CARD + 0.45) + 0.7)
    fig, axes = plt.subplots(len(sides), len(cases), figsize=size, squeeze=False)
    for column, (title, case) in enumerate(cases.items()):
        heading = (title, case.asked.question, f"label: {case.asked.answers[0]}")
        axes[0, column].set_title(_wrapped(heading), fontsize=8)
        for ax, (model, side) in zip(axes[:, column], sides.items(), strict=True):
            scale = side / case.image.width
            box = case.evidence and tuple(edge * scale for edge in case.evidence)
            _show(ax, case.image.resize((side, side), Image.Resampling.BICUBIC), box)
            answer = f"{_MARK[case.right[model]]} {case.given[model]}"
            _below(ax, _wrapped((f"{names[model]}:", answer)))
    return fig


def draw_attention(looks: Looks, queries: Sequence[int]) -> Figure:
    """Where the resampler looks: all queries together, then single ones, over the tiles and the global view.

    Args:
        looks: attention over one image.
        queries: numbers of the single queries; the same query of every view is shown.
    """
    tiled = join_tiles(looks.views[: looks.grid.tiles], looks.grid)
    rows = {"tiles": (tiled, looks.tiles), "global view": (looks.views[-1], looks.whole)}
    fig, axes = plt.subplots(2, 2 + len(queries), figsize=(1.9 * (2 + len(queries)), 4.2))
    for line, (name, (pixels, attention)) in zip(axes, rows.items(), strict=True):
        _show(line[0], pixels)
        line[0].set_title(name)
        for ax, query in zip(line[1:], (None, *queries), strict=True):
            _overlay(ax, pixels, attention(query))
            ax.set_title("all queries" if query is None else f"query {query}")
        for ax in line if name == "tiles" else ():
            _grid_lines(ax, looks)
    return fig


def _show(ax: Axes, image: Image.Image | torch.Tensor, box: Box | None = None) -> None:
    """A Pillow image or pixels `[3, H, W]` from 0 to 1, without axes."""
    ax.imshow(image if isinstance(image, Image.Image) else image.permute(1, 2, 0).numpy())
    ax.set_axis_off()
    if box is not None:
        x0, y0, x1, y1 = box
        width = image.width if isinstance(image, Image.Image) else image.shape[-1]
        room = 0.012 * width  # between the evidence and its box
        corner = x0 - 0.5 - room, y0 - 0.5 - room
        sides = x1 - x0 + 2 * room, y1 - y0 + 2 * room
        ax.add_patch(Rectangle(corner, *sides, fill=False, edgecolor=COLOURS[1], linewidth=1.5))


def _overlay(ax: Axes, pixels: torch.Tensor, attention: torch.Tensor) -> None:
    """Attention `[rows, cols]` over a pale version of `[3, H, W]`, scaled to its largest value."""
    height, width = pixels.shape[-2:]
    ax.imshow(pixels.mean(0).numpy(), cmap="gray", vmin=-1, vmax=1)
    strength = (attention / attention.max()).numpy()
    ax.imshow(
        strength, cmap="magma", alpha=0.25 + 0.6 * strength, extent=(-0.5, width - 0.5, height - 0.5, -0.5)
    )
    ax.set_axis_off()


def _grid_lines(ax: Axes, looks: Looks) -> None:
    side = looks.views.shape[-1]
    for row in range(1, looks.grid.rows):
        ax.axhline(row * side - 0.5, color=COLOURS[1], linewidth=1)
    for col in range(1, looks.grid.cols):
        ax.axvline(col * side - 0.5, color=COLOURS[1], linewidth=1)


def _below(ax: Axes, text: str) -> None:
    # "$5 or $6" is no formula.
    ax.text(0, -0.03, text, transform=ax.transAxes, va="top", fontsize=8, parse_math=False)


def _wrapped(lines: Sequence[str]) -> str:
    return "\n".join(piece for line in lines for piece in textwrap.wrap(line, _WRAP) or [""])
