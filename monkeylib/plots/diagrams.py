"""Diagrams, drawn from the configuration: the model's architecture, and the pipeline of descriptions."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

from monkeylib.model import MonkeyConfig
from monkeylib.plots.style import COLOURS, INK, PALE
from monkeylib.sizing import count_parameters, count_visual_tokens
from monkeylib.tiling import Grid

_FROZEN, _TRAINED, _DATA = PALE, COLOURS[0], "white"
_DESCRIPTION_CHARACTERS = 30  # across the box of a description


@dataclass(frozen=True)
class _Box:
    """A box of a diagram: its middle, size and text, in inches."""

    x: float
    y: float
    width: float
    height: float
    text: str
    colour: str = _DATA

    def draw(self, ax: Axes) -> None:
        corner = (self.x - self.width / 2, self.y - self.height / 2)
        style = "round,pad=0,rounding_size=0.06"
        edge = INK if self.colour == _DATA else self.colour
        ax.add_patch(
            FancyBboxPatch(
                corner, self.width, self.height, boxstyle=style, facecolor=self.colour, edgecolor=edge
            )
        )
        text_colour = "white" if self.colour not in (_DATA, _FROZEN) else INK
        ax.text(self.x, self.y, self.text, ha="center", va="center", color=text_colour, fontsize=8)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], label: str = "") -> None:
    """Draw an arrow, with a label above its middle."""
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=INK, linewidth=0.9))
    if label:
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        ax.text(x, y + 0.05, label, ha="center", va="bottom", fontsize=7)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty drawing of a size in inches, in which an inch is a unit."""
    fig, ax = plt.subplots(figsize=(width, height))
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.set_axis_off()
    return fig, ax


def _millions(count: int) -> str:
    """Return a number of parameters for readers: "0.2 M", "1.8 B"."""
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"


def draw_architecture(config: MonkeyConfig, grid: Grid, text_prompt: str = "question") -> Figure:
    """Draw how an image and a question become an answer, with the sizes of a configuration (paper, Fig. 2).

    Args:
        config: of a model with a resampler.
        grid: rows and columns of tiles; at most 3 tiles are drawn one by one, the others as dots.
        text_prompt: what stands in the box of the prompt.
    """
    fig, ax = _canvas(10.4, 4.6)
    side, queries = config.vision_config.tile_size, config.resampler_config.queries
    counts = count_parameters(config)
    tokens = count_visual_tokens(config, grid)

    image_size = f"{grid.cols * side} x {grid.rows * side}"
    image = _Box(0.75, 2.6, 1.2, 1.0, f"image\n{image_size}")
    image.draw(ax)

    # The views, from top to bottom, and what each meets in the encoder.
    shown = min(3, grid.tiles)
    names = [f"tile {tile}" for tile in range(shown)]
    loras = [f"LoRA {tile}" for tile in range(shown)]
    if grid.tiles > shown:
        names[-1], loras[-1] = f"tile {grid.tiles - 1}", f"LoRA {grid.tiles - 1}"
    names.append("global view")
    loras.append("no LoRA")
    heights = [4.2, 3.45, 2.45, 1.45][-len(names) :]

    # The encoder first, since LoRA lies beside its projections.
    middle, height = (heights[0] + heights[-1]) / 2, heights[0] - heights[-1] + 0.7
    _Box(4.75, middle, 2.4, height, "", _FROZEN).draw(ax)
    ax.text(5.3, middle, f"ViT, shared\n{_millions(counts['ViT'])}", ha="center", va="center", fontsize=8)

    for name, lora, y in zip(names, loras, heights, strict=True):
        _Box(2.55, y, 1.0, 0.55, f"{name}\n{side} x {side}").draw(ax)
        _Box(4.15, y, 0.8, 0.36, lora, _DATA if lora == "no LoRA" else _TRAINED).draw(ax)
        _arrow(ax, (1.35, 2.6), (2.05, y))
        _arrow(ax, (3.05, y), (3.55, y))
        _arrow(ax, (5.95, y), (6.35, y))
        _arrow(ax, (7.75, y), (8.3, 2.55 + 0.25 * (y - 2.83)))
    if grid.tiles > shown:
        ax.text(2.55, (heights[1] + heights[2]) / 2, "⋮", ha="center", va="center", fontsize=12)

    resampler = f"resampler, shared\n{_millions(counts['resampler'])}\n{queries} queries\nper view"
    _Box(7.05, middle, 1.4, height, resampler, _TRAINED).draw(ax)

    language_model = f"language model\n{_millions(counts['language model'])}"
    _Box(9.0, 2.55, 1.4, 1.6, language_model, _TRAINED).draw(ax)
    ax.text(8.95, 3.5, f"{tokens} visual tokens", ha="center", va="bottom", fontsize=8)

    _Box(9.0, 0.95, 1.4, 0.5, text_prompt).draw(ax)
    _arrow(ax, (9.0, 1.2), (9.0, 1.75))
    _arrow(ax, (9.7, 2.55), (10.05, 2.55))
    ax.text(10.08, 2.55, "answer", ha="left", va="center", fontsize=8)

    _legend(ax, 0.2, 0.35, {"frozen": _FROZEN, "trained": _TRAINED})
    ax.set_xlim(0, 10.7)
    return fig


def _legend(ax: Axes, x: float, y: float, entries: dict[str, str]) -> None:
    for name, colour in entries.items():
        ax.add_patch(FancyBboxPatch((x, y - 0.08), 0.25, 0.16, boxstyle="square,pad=0", color=colour))
        ax.text(x + 0.33, y, name, va="center", fontsize=8)
        x += 1.2


def draw_description_pipeline(
    levels: Sequence[tuple[str, str]], filter_text: str, composer: str, description: str, image: Image.Image
) -> Figure:
    """Draw how the outputs of experts become one description of an image (paper, Fig. 3).

    Args:
        levels: what each expert says: its name, and an example (`plots.captions.level_examples`).
        filter_text: what the filter keeps.
        composer: name of the language model that writes the description.
        description: the description of the image; nothing if it is empty.
        image: the image.
    """
    lines = textwrap.wrap(description, _DESCRIPTION_CHARACTERS) or ["nothing"]
    description_height = 0.4 + 0.15 * len(lines)
    height = max(0.7 * len(levels), description_height) + 0.6
    fig, ax = _canvas(11, height)
    middle = height / 2

    # The image, 1.6 inches wide.
    tall = 1.6 * image.height / image.width
    ax.imshow(image, extent=(0.1, 1.7, middle - tall / 2, middle + tall / 2), zorder=0)
    ax.set(xlim=(0, 11), ylim=(0, height))

    for number, (name, example) in enumerate(levels):
        # Equally far apart, above and below the middle.
        y = middle + 0.7 * ((len(levels) - 1) / 2 - number)
        _Box(3.6, y, 2.6, 0.56, f"{name}\n{example}").draw(ax)
        _arrow(ax, (1.75, middle), (2.3, y))
        _arrow(ax, (4.9, y), (5.45, middle))

    _Box(6.1, middle, 1.3, 0.8, filter_text, _FROZEN).draw(ax)
    _arrow(ax, (6.75, middle), (7.1, middle))
    _Box(7.7, middle, 1.2, 0.8, composer, _TRAINED).draw(ax)
    _arrow(ax, (8.3, middle), (8.65, middle))
    _Box(9.8, middle, 2.3, description_height, "\n".join(lines)).draw(ax)
    return fig
