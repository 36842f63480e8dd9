"""What each token of an answer attends to, and where the queries of the resampler look in each view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from monkeylib.experiments.answer_attention import AnswerMaps, compute_answer_maps
from monkeylib.explore.drawing import add_colour_bar, overlay_attention, overlay_views
from monkeylib.explore.tiles import to_image
from monkeylib.explore.variants import require_monkey
from monkeylib.explore.widgets.base import Explorer, html_table, png_bytes
from monkeylib.explore.widgets.panels import add_scale, show_overlay
from monkeylib.images import ImageInput, open_image
from monkeylib.monkey import Monkey
from monkeylib.tiling import join_tiles

_ALL = -1  # choice of a slider
_PANELS = 6  # tokens of a figure


class AttentionExplorer(Explorer):
    """Attention of an answer over an image, and of the resampler's queries over each view of it.

    The attention of a token goes through the language model to visual tokens, and through the resampler on to
    patches. All tokens share one scale, and so do all queries in all views.

    Attributes:
        question: the last question.
        maps: attention of the tokens of its answer.
        token: number of the token that is displayed; None for the mean over all.
        query: number of the resampler's query that is displayed; None for the mean over all.
    """

    def __init__(self, monkey: Monkey, image: ImageInput, question: str) -> None:
        self.monkey, self.image = require_monkey(monkey), open_image(image)
        self.token: int | None = None
        self.query: int | None = None
        self.read(question)

    def read(self, question: str) -> AnswerMaps:
        """Answer another question."""
        self.question = question
        self.maps = compute_answer_maps(self.monkey, self.image, question)
        self.token = None

        # One scale for all tokens, and one for all queries, so that they compare.
        self._largest = max(float(self.maps.over_image(n).max()) for n in range(len(self.maps.tokens)))
        self._largest_of_queries = float(self.maps.resampler.weights.max())
        return self.maps

    def shares(self) -> list[tuple[str, str]]:
        """Return how much of the displayed token's attention falls on each view, and on text."""
        by_view = self.maps.by_view()
        shares = by_view.mean(0) if self.token is None else by_view[self.token]
        rows = [
            (name, f"{float(share):.1%}")
            for name, share in zip(self.maps.resampler.view_names(), shares, strict=True)
        ]
        return [*rows, ("text", f"{max(0.0, 1 - float(shares.sum())):.1%}")]

    def overlay(self, side: int = 360) -> Image.Image:
        """Return the image with the attention of the displayed token over it, and the scale of all tokens."""
        drawn = overlay_attention(self._joined(), self.maps.over_image(self.token), self._largest, side)
        return add_colour_bar(drawn, self._largest)

    def overlay_views(self, side: int = 360) -> Image.Image:
        """Return the views with the displayed query's attention over them, and the scale of all queries."""
        drawn = overlay_views(self.maps.resampler, self.query, self._largest_of_queries, side)
        return add_colour_bar(drawn, self._largest_of_queries)

    def _joined(self) -> Image.Image:
        maps = self.maps.resampler
        if not maps.grid.tiles:
            return to_image(maps.views[-1])
        pixels = maps.overlap * maps.views.shape[-1] // maps.weights.shape[-1]
        return to_image(join_tiles(maps.views[: maps.grid.tiles], maps.grid, pixels))

    def token_names(self) -> list[tuple[str, int | None]]:
        """Return the tokens of the answer for a choice, with their numbers."""
        return [("all tokens", None), *((f"{n}: {token!r}", n) for n, token in enumerate(self.maps.tokens))]

    def query_names(self) -> list[tuple[str, int | None]]:
        """Return the queries of the resampler for a choice, with their numbers."""
        queries = range(self.maps.resampler.weights.shape[1])
        return [("all queries", None), *((f"query {query}", query) for query in queries)]

    def _build_widget(self, ipywidgets: Any) -> Any:
        question = ipywidgets.Text(value=self.question, description="question", continuous_update=False)
        token = _slider(ipywidgets, self.token_names(), "token")
        query = _slider(ipywidgets, self.query_names(), "resampler")
        image, facts, views = ipywidgets.Image(), ipywidgets.HTML(), ipywidgets.Image()

        def show_token(change: Any = None) -> None:
            self.token = None if token.value == _ALL else token.value
            image.value = png_bytes(self.overlay())
            facts.value = html_table([("answer", "".join(self.maps.tokens[:-1])), *self.shares()])

        def show_query(change: Any = None) -> None:
            self.query = None if query.value == _ALL else query.value
            views.value = png_bytes(self.overlay_views())

        def answer(change: Any) -> None:
            # The queries look where they did: they do not know the question.
            self.read(question.value)
            token.options = _choices(self.token_names())
            show_token()

        question.observe(answer, "value")
        token.observe(show_token, "value")
        query.observe(show_query, "value")
        show_token()
        show_query()
        return ipywidgets.VBox([question, token, ipywidgets.HBox([image, facts]), query, views])

    def _draw(self) -> Figure:
        resampler = self.maps.resampler
        tokens: list[int | None] = [None, *range(min(len(self.maps.tokens), _PANELS))]
        queries, views = resampler.weights.shape[1], self.maps.resampler.view_names()
        query = queries // 2 if self.query is None else self.query

        columns = max(len(tokens), len(views))
        fig = plt.figure(figsize=(1.7 * columns + 0.8, 6.2))
        of_answer, of_resampler = fig.subfigures(2, 1, height_ratios=(1, 1.8))

        answer = "".join(self.maps.tokens[:-1])
        of_answer.suptitle(f"{self.question} → {answer}", fontsize=9, parse_math=False)
        axes = of_answer.subplots(1, columns, squeeze=False)
        for ax, token in zip(axes.flat, tokens, strict=False):
            title = "all tokens" if token is None else repr(self.maps.tokens[token])
            show_overlay(ax, self._joined(), self.maps.over_image(token), self._largest, title)
        add_scale(of_answer, [*axes.flat], self._largest, "token")

        of_resampler.suptitle("Where the resampler's queries look in each view", fontsize=9)
        axes = of_resampler.subplots(2, columns, squeeze=False)
        for row, number in zip(axes, (None, query), strict=True):
            weights = resampler.over_views(number)
            for ax, name, view, attention in zip(row, views, resampler.views, weights, strict=False):
                show_overlay(ax, to_image(view), attention, self._largest_of_queries, name)
            beside = {"transform": row[0].transAxes, "rotation": 90, "ha": "right", "va": "center"}
            row[0].text(-0.03, 0.5, "all queries" if number is None else f"query {number}", **beside)
        add_scale(of_resampler, [*axes.flat], self._largest_of_queries, "query")
        return fig


def _slider(ipywidgets: Any, names: Sequence[tuple[str, int | None]], description: str) -> Any:
    return ipywidgets.SelectionSlider(options=_choices(names), value=_ALL, description=description)


def _choices(names: Sequence[tuple[str, int | None]]) -> list[tuple[str, int]]:
    # To a slider, None is no choice at all.
    return [(name, _ALL if number is None else number) for name, number in names]
