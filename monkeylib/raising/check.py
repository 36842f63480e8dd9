"""Can a model be raised, and what would it cost? One sentence, before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from monkeylib.errors import first_line
from monkeylib.raising.families import image_marker, processor_family, refusal
from monkeylib.raising.grids import TileGrids
from monkeylib.raising.places import count_places
from monkeylib.raising.processor import ViewSettings, raise_processor
from monkeylib.raising.tower import DryRun, try_image
from monkeylib.tiling import ResizeMode

# Width and height of the images that are tried: those of a model of fixed resolution all give one view.
_SHAPES = ((300, 100), (100, 300), (200, 200))


@dataclass(frozen=True)
class RaisingCheck:
    """Whether a model can be raised to a grid, and what has shown so.

    Fields:
        reason: why it cannot; empty if it can.
        family: class of the model.
        grids: that it would be raised to.
        tile_size: side of a view in pixels.
        tokens_per_view: places that a view takes in a prompt.
        positions: tokens that the language model reads, None where its configuration doesn't say.
        layers: linear layers of the tower that get adapters, by their names in it.
        linear_count: number of linear layers in the tower.
        settings: how the processor would cut images.
    """

    reason: str
    family: str
    grids: TileGrids
    tile_size: int = 0
    tokens_per_view: int = 0
    positions: int | None = None
    layers: list[str] = field(default_factory=list)
    linear_count: int = 0
    settings: ViewSettings | None = None

    @property
    def is_possible(self) -> bool:
        """Whether the model can be raised."""
        return not self.reason

    @property
    def visual_tokens(self) -> int:
        """Places that an image takes in a prompt, with all its tiles and the global view."""
        return (self.grids.largest + 1) * self.tokens_per_view

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        if self.reason:
            return f"{self.family} cannot be raised: it {self.reason}"

        read = "of any number" if self.positions is None else f"of {self.positions:,}"
        return (
            f"{self.family} can be raised to {self.grids}: {self.grids.largest} tiles and the global view of "
            f"{self.tile_size} pixels take {self.tokens_per_view} tokens each, {self.visual_tokens:,} "
            f"together {read} that it reads; adapters stand beside {len(self.layers)} of "
            f"{self.linear_count} linear layers of its vision tower, and its processor is raised by the "
            f"route {self.route!r}"
        )

    @property
    def route(self) -> str:
        """How the processor is raised, see `processor`."""
        return self.settings.family.route if self.settings else ""

    def __str__(self) -> str:
        return self.sentence


class _CannotBeRaisedError(ValueError):
    """A reason, as the end of a sentence that begins with "it"."""


def check_raising(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    grid: Any = (2, 2),
    tile_size: int | None = None,
    resize_mode: ResizeMode = "stretch",
) -> RaisingCheck:
    """Tell whether `raise_resolution` can raise a model, and what an image then costs; changes nothing.

        print(monkeylib.check_raising(model, processor))

    Args:
        model, processor: of transformers, of one checkpoint.
        grid, tile_size, resize_mode: as in `raise_resolution`.

    Raises:
        ValueError: `grid` is none. What speaks against the model is no error, but the check's `reason`.
    """
    grids = TileGrids.of(grid)
    name = type(model).__name__
    try:
        return _check(model, processor, grids, tile_size, resize_mode)
    except _CannotBeRaisedError as error:
        return RaisingCheck(str(error), name, grids)


def _check(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    grids: TileGrids,
    tile_size: int | None,
    resize_mode: ResizeMode,
) -> RaisingCheck:
    if not isinstance(model, PreTrainedModel):
        raise _CannotBeRaisedError(
            "is no model of transformers: load the base by AutoModelForImageTextToText"
        )
    if reason := refusal(model.config):
        raise _CannotBeRaisedError(reason)

    inputs = _check_fixed_size(model, processor, tile_size)
    side = _side(inputs)
    dry_run = _try(model, inputs)

    image_token_id = getattr(model.config, "image_token_id", None)
    places = count_places(inputs, image_token_id)
    if places is not None and places != dry_run.tokens:
        raise _CannotBeRaisedError(
            f"makes {dry_run.tokens} tokens of one view, while its processor writes {places} places: take "
            "the processor of this checkpoint"
        )
    _check_borders(processor, side)

    settings = ViewSettings(
        grids,
        side,
        dry_run.tokens,
        resize_mode,
        processor_family(processor),
        image_token_id,
        resizes_global_view=tile_size is not None,
    )
    check = RaisingCheck(
        reason="",
        family=type(model).__name__,
        grids=grids,
        tile_size=side,
        tokens_per_view=dry_run.tokens,
        positions=getattr(model.config.get_text_config(), "max_position_embeddings", None),
        layers=dry_run.layers,
        linear_count=dry_run.linear_count,
        settings=settings,
    )
    _check_context(check)
    _check_cutting(processor, settings)
    return check


def _check_fixed_size(
    model: PreTrainedModel, processor: ProcessorMixin, tile_size: int | None
) -> Mapping[str, Any]:
    """Return the inputs of an image, where those of images of any shape have one size.

    A model that reads any size has no size of its own; a `tile_size` gives it one.
    """
    shapes = _SHAPES if tile_size is None else ((tile_size, tile_size),)
    inputs = [process_one(processor, Image.new("RGB", size, "gray")) for size in shapes]
    sizes = {tuple(np.shape(one["pixel_values"])) for one in inputs}
    places = {count_places(one, getattr(model.config, "image_token_id", None)) for one in inputs}

    if len(sizes) > 1 or len(places) > 1:
        raise _CannotBeRaisedError(
            "prepares images of different shapes in different sizes, and has no fixed resolution to raise; "
            "name a tile_size to give it one"
        )
    return inputs[0]


def process_one(processor: ProcessorMixin, image: Image.Image) -> Mapping[str, Any]:
    """Return what an untouched processor makes of one image, which it doesn't split.

    Raises:
        ValueError: it makes nothing of it.
    """
    text = f"{image_marker(processor)}a"
    try:
        options = processor_family(processor).image_options
        inputs = processor(images=[image], text=[text], return_tensors="pt", **options)
    except Exception as error:  # processors raise whatever they stumble over
        raise _CannotBeRaisedError(
            f"has a processor that takes no single image ({first_line(error)}): pass the processor of this "
            "checkpoint"
        ) from error

    if "pixel_values" not in inputs:
        raise _CannotBeRaisedError("has a processor that makes no pixel_values of an image")
    return inputs


def _side(inputs: Mapping[str, Any]) -> int:
    height, width = np.shape(inputs["pixel_values"])[-2:]
    if height != width:
        raise _CannotBeRaisedError(f"reads views of {height}x{width} pixels, and tiles are square here")
    return height


def _try(model: PreTrainedModel, inputs: Mapping[str, Any]) -> DryRun:
    inputs = {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }
    try:
        dry_run = try_image(model, inputs)
    except Exception as error:  # models raise whatever they stumble over
        raise _CannotBeRaisedError(f"cannot encode one image by itself ({first_line(error)})") from error

    if dry_run.view_count != 1:
        raise _CannotBeRaisedError(
            f"reads one image as {dry_run.view_count} rows of its vision tower, so that they are no views"
        )
    if not dry_run.layers:
        raise _CannotBeRaisedError(
            "has no linear layer in the blocks of its vision tower that its image features depend on"
        )
    return dry_run


def _check_borders(processor: ProcessorMixin, side: int) -> None:
    """Check that a tile's border reaches the model: an image processor may cut it off to get the centre."""
    plain = Image.new("RGB", (side, side), "white")
    framed = Image.new("RGB", (side, side), "black")
    framed.paste(plain.crop((1, 1, side - 1, side - 1)), (1, 1))
    pixels = [np.asarray(process_one(processor, image)["pixel_values"]) for image in (plain, framed)]
    if np.array_equal(*pixels):
        raise _CannotBeRaisedError(
            f"has a processor that cuts the border off an image of {side}x{side} pixels, so that tiles would "
            "lose theirs: set its image processor's size to its crop_size"
        )


def _check_context(check: RaisingCheck) -> None:
    """Check that an image fits into the text positions, and leaves some for a question."""
    if check.positions is not None and check.visual_tokens >= check.positions:
        raise _CannotBeRaisedError(
            f"reads {check.positions:,} tokens, and {check.grids.largest} tiles and the global view are "
            f"{check.visual_tokens:,}: choose a smaller grid"
        )


def _check_cutting(processor: ProcessorMixin, settings: ViewSettings) -> None:
    """Check that the raised processor really cuts."""
    raised = raise_processor(processor, settings)
    image = Image.new("RGB", (2 * settings.tile_size, 2 * settings.tile_size), "gray")
    try:
        raised(images=[image], text=[f"{image_marker(processor)}a"], return_tensors="pt")
    except Exception as error:  # processors raise whatever they stumble over
        raise _CannotBeRaisedError(f"has a processor that cannot be raised ({first_line(error)})") from error
