"""What the LoRA of each tile has become, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from monkeylib.explore.widgets.base import Explorer, figure_bytes
from monkeylib.plots.experiments import draw_block_loras
from monkeylib.tables import Row


class LorasExplorer(Explorer):
    """The size of each tile's LoRA in one block of the encoder, and how alike those of two tiles are.

    Attributes:
        rows: of `experiments.lora_effect.describe_loras`.
        block: number of the displayed block.
    """

    def __init__(self, rows: Sequence[Row], block: int = 0) -> None:
        self.rows = list(rows)
        if block not in self.blocks:
            raise ValueError(f"expected a block with LoRA, one of {self.blocks}, got {block}: choose another")
        self.block = block

    @property
    def blocks(self) -> list[int]:
        """The blocks that have LoRA."""
        return sorted({int(row["block"] or 0) for row in self.rows})

    def _build_widget(self, ipywidgets: Any) -> Any:
        block = ipywidgets.SelectionSlider(options=self.blocks, value=self.block, description="block")
        image = ipywidgets.Image()

        def update(change: Any = None) -> None:
            self.block = block.value
            image.value = figure_bytes(self.figure())

        block.observe(update, "value")
        update()
        image.layout.max_width = "760px"
        return ipywidgets.VBox([block, image])

    def _draw(self) -> Figure:
        return draw_block_loras(self.rows, self.block)
