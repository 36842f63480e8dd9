"""Move grid and prompt of an image, and see what it costs a model that need not be loaded."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from monkeylib.explore.costs import ImageCosts, image_costs
from monkeylib.explore.drawing import grid_choices
from monkeylib.explore.widgets.base import Explorer, html_table
from monkeylib.model import MonkeyConfig
from monkeylib.plots.scaling import draw_grid_costs
from monkeylib.tiling import Grid, parse_grid

_MOST_TEXT = 2048


class CostsExplorer(Explorer):
    """What an image of any grid costs a model.

    Attributes:
        grid: the displayed grid, such as "2x2".
        text_tokens: length of prompt and answer without the image, as displayed.

    Raises:
        ValueError: no grid of tiles, or one of more than `max_tiles`.
    """

    def __init__(
        self,
        config: MonkeyConfig,
        grid: str = "2x2",
        text_tokens: int = 32,
        value_bytes: int = 2,
        max_tiles: int = 9,
    ) -> None:
        self.grids = grid_choices(max_tiles)
        if grid not in self.grids:
            raise ValueError(f"a grid of 1 to {max_tiles} tiles, such as 2x2, is displayed, got {grid!r}")
        self.config, self.grid, self.text_tokens = config, grid, text_tokens
        self.value_bytes = value_bytes

    def costs(self, grid: Grid | None = None) -> ImageCosts:
        """Return the costs on a grid, by default on the displayed one."""
        return image_costs(self.config, grid or parse_grid(self.grid), self.text_tokens, self.value_bytes)

    def _build_widget(self, ipywidgets: Any) -> Any:
        grid = ipywidgets.SelectionSlider(options=self.grids, value=self.grid, description="grid")
        text = ipywidgets.IntSlider(
            value=self.text_tokens, min=0, max=max(_MOST_TEXT, self.text_tokens), step=16, description="text"
        )
        facts = ipywidgets.HTML()

        def update(change: Any = None) -> None:
            self.grid, self.text_tokens = grid.value, text.value
            facts.value = html_table(self.costs().rows())

        for control in (grid, text):
            control.observe(update, "value")
        update()
        return ipywidgets.VBox([grid, text, facts])

    def _draw(self) -> Figure:
        by_grid = {grid: self.costs(grid) for grid in map(parse_grid, self.grids)}
        flops = {grid: costs.flops for grid, costs in by_grid.items()}
        caches = {grid: costs.cache for grid, costs in by_grid.items()}
        fig = draw_grid_costs(flops, caches, parse_grid(self.grid))

        terms = [f"{term}: {value}" for term, value in self.costs().rows()]
        fig.suptitle(f"{', '.join(terms[:3])}\n{', '.join(terms[3:])}", fontsize=8)
        return fig
