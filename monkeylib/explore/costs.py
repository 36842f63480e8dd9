"""What an image costs a model on other grids: visual tokens, operations, memory."""

from __future__ import annotations

from dataclasses import dataclass

from monkeylib import sizing
from monkeylib.model import MonkeyConfig
from monkeylib.tiling import Grid

# The part of a device that tensors may fill; the rest is for its context, allocator and kernels.
USABLE = 0.9
DEVICES_GB = (24, 80)


@dataclass(frozen=True)
class ImageCosts:
    """What one image and its prompt cost.

    Attributes:
        grid: rows and columns of the image's tiles.
        visual_tokens: what the language model reads of the image.
        flops: floating-point operations of each part, until an answer begins.
        weights: bytes of the model.
        cache: bytes of the keys and values of image and prompt.
    """

    grid: Grid
    visual_tokens: int
    flops: dict[str, int]
    weights: int
    cache: int

    def examples_at_once(self, device_gb: float) -> int:
        """Return how many images with their prompts fit on a device beside the weights; 0 if these do not.

        Activations are not counted.
        """
        return max(0, int((USABLE * device_gb * 1e9 - self.weights) // self.cache))

    def rows(self) -> list[tuple[str, str]]:
        """Return what is to be told of it, as terms and numbers."""
        rows = [
            ("grid", f"{self.grid}: {self.grid.tiles} tiles"),
            ("visual tokens", f"{self.visual_tokens:,}"),
            ("operations", f"{sum(self.flops.values()) / 1e12:,.2f} TFLOP"),
            ("weights", f"{self.weights / 1e9:,.2f} GB"),
            ("keys and values", f"{self.cache / 1e9:,.2f} GB an image"),
        ]
        rows += [
            (f"images at once in {size:g} GB", f"{self.examples_at_once(size):,}") for size in DEVICES_GB
        ]
        return rows


def image_costs(config: MonkeyConfig, grid: Grid, text_tokens: int = 32, value_bytes: int = 2) -> ImageCosts:
    """Return what an image costs a model on a grid; no weights are loaded.

    Args:
        config: the model.
        grid: the image's.
        text_tokens: length of the prompt and the answer without the image.
        value_bytes: of a weight and of a cached value: 2 for bfloat16, 4 for float32.

    Raises:
        ValueError: a grid without tiles, or a negative number of tokens.
    """
    if not grid.tiles or text_tokens < 0:
        raise ValueError(
            f"costs are those of an image of tiles and a prompt of 0 or more tokens, got the grid {grid} and "
            f"{text_tokens} tokens"
        )
    memory = sizing.inference_bytes(config, grid, text_tokens, value_bytes)
    return ImageCosts(
        grid=grid,
        visual_tokens=sizing.count_visual_tokens(config, grid),
        flops=sizing.count_flops(config, grid, text_tokens),
        weights=memory["weights"],
        cache=memory["cache"],
    )
