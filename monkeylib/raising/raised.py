"""Raise the resolution of a vision-language model of transformers: Monkey's method for any of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin

from monkeylib.raising.check import RaisingCheck, check_raising
from monkeylib.raising.model import Mode, merge_adapters, raise_model
from monkeylib.raising.processor import raise_processor
from monkeylib.tiling import ResizeMode


@dataclass(frozen=True)
class Raised:
    """A raised model with its processor. It unpacks into the two.

    Fields:
        model: takes `tile_index`; without it, it is the base.
        processor: cuts images, and gives `tile_index`.
        check: what was known before.
        mode: of the adapters.
        rank: of the adapters, or one a name of layers.
        dropout: before each adapter.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    check: RaisingCheck
    mode: Mode
    rank: int | Mapping[str, int] = field(default=16)
    dropout: float = 0.0

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.processor))

    def merge(self) -> PreTrainedModel:
        """Add the adapters of the mode "shared" to the weights, and return the model, now of its base class.

        See `model.merge_adapters`.
        """
        return merge_adapters(self.model)


def raise_resolution(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    grid: Any = (2, 2),
    rank: int | Mapping[str, int] = 16,
    mode: Mode = "per_tile",
    dropout: float = 0.0,
    tile_size: int | None = None,
    resize_mode: ResizeMode = "stretch",
) -> Raised:
    """Give a vision-language model of transformers tiles, a global view and per-tile LoRA.

        model, processor = monkeylib.raise_resolution(model, processor, grid=(2, 2))
        inputs = processor(images=image, text=prompt, return_tensors="pt")
        model.generate(**inputs)

    The model is raised in place: its class is one of the same name, whose `forward` and `generate` take
    `tile_index`, the number of each view's tile. Called without it, the model is its base to the last bit.
    Everything is frozen but the adapters. The processor stays as it is; the returned one is a copy that cuts
    each image into the tiles of its grid, and puts the image as the base saw it behind them, as global view.
    A prompt holds one marker an image, as before.

    Paper section 3.1 does so with Qwen-VL. The adapters stand beside the linear layers of the vision tower
    on which image features depend.

    Args:
        model, processor: of transformers, of one checkpoint, whose images have a fixed size.
        grid: rows and columns, also as "2x3"; a list of grids, the first of which is the default; or "auto:6"
            for the grid of each image's shape, of at most six tiles. Calls of the processor may request
            another by its argument `grid`, if there are adapters for its tiles.
        rank: of the adapters, or one for each layer by its name or the end of it: `{"q_proj": 8}` leaves the
            others without.
        mode: "per_tile" has an adapter a tile, "shared" one for all tiles, "none" has none, and "full" has
            none and trains the tower itself. The global view meets none.
        dropout: before each adapter.
        tile_size: side of a tile, where the model reads images of any size; otherwise it is the model's own.
        resize_mode: how an image is brought to the shape of its grid (`tiling.resize`).

    Raises:
        ValueError: the model cannot be raised (`check_raising` says why), or an argument is impossible.
    """
    check = check_raising(model, processor, grid, tile_size, resize_mode)
    if not check.is_possible:
        raise ValueError(check.sentence)

    raised_processor = raise_processor(processor, check.settings)
    raise_model(model, check.layers, check.grids, check.tokens_per_view, rank, mode, dropout)
    return Raised(model, raised_processor, check, mode, rank, dropout)
