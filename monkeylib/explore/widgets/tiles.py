"""Move the grid of an image, and see its views and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from monkeylib.explore.drawing import draw_grid, draw_views, grid_choices
from monkeylib.explore.tiles import TiledImage, displayed_grids, tile_image
from monkeylib.explore.widgets.base import Explorer, html_table, png_bytes
from monkeylib.images import ImageInput, open_image
from monkeylib.monkey import Monkey
from monkeylib.plots.tiling import draw_views as draw_figure
from monkeylib.plots.tiling import show_view


class TilesExplorer(Explorer):
    """The tiles of an image, for any grid.

    Attributes:
        grid: the grid that is displayed, such as "2x2"; "auto" chooses one by the image's shape.
    """

    def __init__(
        self,
        monkey: Monkey,
        image: ImageInput,
        grid: str = "2x2",
        grids: Sequence[str] = (),
        max_tiles: int = 9,
    ) -> None:
        self.monkey, self.image, self.grid = monkey, open_image(image), grid
        self.grids = list(grids) or ["auto", *displayed_grids(monkey, grid_choices(max_tiles))]
        if grid not in self.grids:
            self.grids.insert(0, grid)

    def tiled(self) -> TiledImage:
        """Return the image in the tiles of the displayed grid."""
        return tile_image(self.monkey, self.image, self.grid)

    def _build_widget(self, ipywidgets: Any) -> Any:
        choice = ipywidgets.SelectionSlider(options=self.grids, value=self.grid, description="grid")
        grid_image, views, facts = ipywidgets.Image(), ipywidgets.Image(), ipywidgets.HTML()

        def update(change: Any = None) -> None:
            self.grid = choice.value
            tiled = self.tiled()
            grid_image.value = png_bytes(draw_grid(tiled, 360))
            views.value = png_bytes(draw_views(tiled, 360))
            facts.value = html_table(tiled.rows())

        choice.observe(update, "value")
        update()
        return ipywidgets.VBox([choice, ipywidgets.HBox([grid_image, views, facts])])

    def _draw(self) -> Figure:
        tiled = self.tiled()
        if tiled.grid.tiles and tiled.global_view is not None:
            fig = draw_figure(tiled.tiles, tiled.global_view, tiled.grid, tiled.overlap)
        else:
            fig = Figure(figsize=(3, 3))
            show_view(fig.subplots(), tiled.joined)
        fig.suptitle(", ".join(f"{term}: {value}" for term, value in tiled.rows()[3:6]), fontsize=9)
        return fig
