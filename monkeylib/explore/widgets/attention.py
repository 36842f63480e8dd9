"""What each token of an answer attends to, over the tiles and the global view."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from PIL import Image

from monkeylib.experiments.answer_attention import AnswerMaps, compute_answer_maps
from monkeylib.explore.drawing import COLOUR_MAP, overlay_attention
from monkeylib.explore.tiles import to_image
from monkeylib.explore.variants import require_monkey
from monkeylib.explore.widgets.base import Explorer, html_table, png_bytes
from monkeylib.images import ImageInput, open_image
from monkeylib.monkey import Monkey
from monkeylib.tiling import join_tiles

_ALL = -1  # choice of a slider
_PANELS = 6  # tokens of a figure


class AttentionExplorer(Explorer):
    """Attention of an answer, through the language model and the resampler, over an image.

    Attributes:
        question: the last question.
        maps: attention of the tokens of its answer.
        token: number of the token that is displayed; None for the mean over all.
    """

    def __init__(self, monkey: Monkey, image: ImageInput, question: str) -> None:
        self.monkey, self.image = require_monkey(monkey), open_image(image)
        self.token: int | None = None
        self.read(question)

    def read(self, question: str) -> AnswerMaps:
        """Answer another question."""
        self.question = question
        self.maps = compute_answer_maps(self.monkey, self.image, question)
        self.token = None
        # One scale for all tokens, so that they compare.
        self._largest = max(float(self.maps.over_image(n).max()) for n in range(len(self.maps.tokens)))
        return self.maps

    def shares(self) -> list[tuple[str, str]]:
        """Return how much of the displayed token's attention falls on each view, and on text."""
        by_view = self.maps.by_view()
        shares = by_view.mean(0) if self.token is None else by_view[self.token]
        tiles = self.maps.resampler.grid.tiles
        names = [f"tile {number}" for number in range(tiles)] + ["global view"] * (len(shares) - tiles)
        rows = [(name, f"{float(share):.1%}") for name, share in zip(names, shares, strict=True)]
        return [*rows, ("text", f"{max(0.0, 1 - float(shares.sum())):.1%}")]

    def overlay(self, side: int = 360) -> Image.Image:
        """Return the image with the attention of the displayed token over it, all tokens on one scale."""
        return overlay_attention(self._joined(), self.maps.over_image(self.token), self._largest, side)

    def _joined(self) -> Image.Image:
        maps = self.maps.resampler
        if not maps.grid.tiles:
            return to_image(maps.views[-1])
        pixels = maps.overlap * maps.views.shape[-1] // maps.weights.shape[-1]
        return to_image(join_tiles(maps.views[: maps.grid.tiles], maps.grid, pixels))

    def token_names(self) -> list[tuple[str, int | None]]:
        """Return the tokens of the answer for a choice, with their numbers."""
        return [("all tokens", None), *((f"{n}: {token!r}", n) for n, token in enumerate(self.maps.tokens))]

    def _choices(self) -> list[tuple[str, int]]:
        # To a slider, None is no choice at all.
        return [(name, _ALL if token is None else token) for name, token in self.token_names()]

    def _build_widget(self, ipywidgets: Any) -> Any:
        question = ipywidgets.Text(value=self.question, description="question", continuous_update=False)
        token = ipywidgets.SelectionSlider(options=self._choices(), value=_ALL, description="token")
        image, facts = ipywidgets.Image(), ipywidgets.HTML()

        def update(change: Any = None) -> None:
            self.token = None if token.value == _ALL else token.value
            image.value = png_bytes(self.overlay())
            facts.value = html_table([("answer", "".join(self.maps.tokens[:-1])), *self.shares()])

        def answer(change: Any) -> None:
            self.read(question.value)
            token.options = self._choices()
            update()

        question.observe(answer, "value")
        token.observe(update, "value")
        update()
        return ipywidgets.VBox([question, token, ipywidgets.HBox([image, facts])])

    def _draw(self) -> Figure:
        tokens: list[int | None] = [None, *range(min(len(self.maps.tokens), _PANELS))]
        maps = {token: self.maps.over_image(token) for token in tokens}
        largest = max(float(attention.max()) for attention in maps.values())

        fig, axes = plt.subplots(1, len(tokens), figsize=(1.9 * len(tokens), 2.4), squeeze=False)
        fig.suptitle(f"{self.question} → {''.join(self.maps.tokens[:-1])}", fontsize=9, parse_math=False)
        for ax, (token, attention) in zip(axes.flat, maps.items(), strict=True):
            ax.imshow(overlay_attention(self._joined(), attention, largest))
            ax.set_title("all tokens" if token is None else repr(self.maps.tokens[token]), parse_math=False)
            ax.set_axis_off()

        scale = plt.cm.ScalarMappable(PowerNorm(0.5, 0, largest), COLOUR_MAP)
        fig.colorbar(scale, ax=axes, label="attention of a patch")
        return fig
