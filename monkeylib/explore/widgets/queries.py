"""Where one query of the resampler looks in a view, beside the mean of all queries."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from monkeylib.errors import choose
from monkeylib.experiments.attention import compute_attention_maps
from monkeylib.explore.tiles import to_image
from monkeylib.explore.variants import require_monkey
from monkeylib.explore.widgets.base import Explorer, figure_bytes, html_table
from monkeylib.explore.widgets.panels import add_scale, show_overlay
from monkeylib.images import ImageInput
from monkeylib.monkey import Monkey

_AVERAGED = "mean of all queries"


class QueriesExplorer(Explorer):
    """The attention of a query in a view of an image, and the mean of all queries there, on one scale.

    The mean is what a single averaged token of the view is made of: mean pooling.

    Attributes:
        maps: attention of the resampler over the image.
        view: the displayed view, such as "tile 2" or "global view".
        query: the displayed query.
    """

    def __init__(
        self, monkey: Monkey, image: ImageInput, view: str = "global view", query: int | None = None
    ) -> None:
        self.maps = compute_attention_maps(require_monkey(monkey), image)
        self.view = choose("view", view, self.views)
        queries = self.maps.weights.shape[1]
        self.query = queries // 2 if query is None else query
        if not 0 <= self.query < queries:
            raise ValueError(f"expected a query from 0 to {queries - 1}, got {query}: choose one of these")

    @property
    def views(self) -> list[str]:
        """The names of the views, in their order."""
        return self.maps.view_names()

    def attention(self) -> dict[str, torch.Tensor]:
        """Return the displayed attention `[patches, patches]`, each summing to 1, by its title."""
        view = self.views.index(self.view)
        return {
            f"query {self.query}": self.maps.over_views(self.query)[view],
            _AVERAGED: self.maps.over_views()[view],
        }

    def rows(self) -> list[tuple[str, str]]:
        """Return on how many patches half of the attention lies."""
        return [
            (title, f"half of its attention on {patches_of_half(weights)} of {weights.numel()} patches")
            for title, weights in self.attention().items()
        ]

    def _build_widget(self, ipywidgets: Any) -> Any:
        view = ipywidgets.Dropdown(options=self.views, value=self.view, description="view")
        last = self.maps.weights.shape[1] - 1
        query = ipywidgets.IntSlider(value=self.query, min=0, max=last, description="query")
        image, facts = ipywidgets.Image(), ipywidgets.HTML()

        def update(change: Any = None) -> None:
            self.view, self.query = view.value, query.value
            image.value = figure_bytes(self.figure())
            facts.value = html_table(self.rows())

        for control in (view, query):
            control.observe(update, "value")
        update()
        image.layout.max_width = "760px"
        return ipywidgets.VBox([view, query, image, facts])

    def _draw(self) -> Figure:
        view = self.views.index(self.view)
        image = to_image(self.maps.views[view])
        # One scale for all queries in all views, so that nothing jumps where a slider moves.
        maximum = float(self.maps.weights.max())

        fig, axes = plt.subplots(1, 3, figsize=(8.6, 2.8))
        axes[0].imshow(image)
        axes[0].set_title(self.view)
        for ax, (title, weights) in zip(axes[1:], self.attention().items(), strict=True):
            show_overlay(ax, image, weights, maximum, title)
        add_scale(fig, axes, maximum, "query")
        return fig


def patches_of_half(weights: torch.Tensor) -> int:
    """Return the smallest number of patches on which half of an attention map lies."""
    cumulative = weights.flatten().sort(descending=True).values.cumsum(0)
    return int((cumulative < cumulative[-1] / 2).sum()) + 1
