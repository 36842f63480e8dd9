"""The processor side: one marker an image in the prompt, its views in the model's inputs.

A raised processor cuts each image, has the processor's own code prepare the views, and adds `tile_index`, the
number of each view's tile. There are two routes (`families.PROCESSORS`):

* "views": the processor writes its text for every view, as it does for several images, and the texts stand
  side by side. So they do in what the base saw in training on several images.
* "repeat": the processor writes its text for the image as a whole, and each of its places is repeated for
  every view, all between one pair of markers. That is the layout of Monkey's released code.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, ProcessorMixin

from monkeylib import tiling
from monkeylib.images import open_image
from monkeylib.raising.families import ProcessorFamily, image_marker
from monkeylib.raising.grids import GLOBAL_VIEW, TileGrids
from monkeylib.raising.places import count_places
from monkeylib.tiling import ResizeMode, tile_boxes

# The grids that a call of a processor requests: one, or one for each image.
_requested_grids: ContextVar[Any] = ContextVar("requested_grids", default=None)


@dataclass(frozen=True)
class ViewSettings:
    """How images are cut for a raised model.

    Fields:
        grids: of the images.
        tile_size: side of a view in pixels, as the base's image processor makes it.
        tokens_per_view: places that a view takes in the prompt.
        resize_mode: how an image is brought to the shape of its grid, see `tiling.resize`.
        family: how the processor is raised.
        image_token_id: that stands in a place; None where a mask tells.
        resizes_global_view: make the global view as large as a tile, where the base reads images of any size.
    """

    grids: TileGrids
    tile_size: int
    tokens_per_view: int
    resize_mode: ResizeMode
    family: ProcessorFamily
    image_token_id: int | None
    resizes_global_view: bool = False

    def cut(self, image: Any, grid: Any = None) -> tuple[list[Image.Image], list[int]]:
        """Return the views of an image, its tiles row by row and then the global view, and their numbers.

        The global view is the image itself, which the base's image processor resizes as it always does.
        """
        opened = open_image(image)
        size = self.tile_size
        selected = self.grids.select(opened.size, size, grid)
        whole = tiling.resize(opened, size, size, self.resize_mode) if self.resizes_global_view else opened
        if not selected.tiles:
            return [whole], [GLOBAL_VIEW]

        canvas = tiling.resize(opened, selected.cols * size, selected.rows * size, self.resize_mode)
        tiles = [canvas.crop(box) for box in tile_boxes(selected, size)]
        return [*tiles, whole], [*self.grids.tile_numbers(selected), GLOBAL_VIEW]


def raise_processor(processor: ProcessorMixin, settings: ViewSettings) -> ProcessorMixin:
    """Return a processor that cuts images: a copy, of a class of the same name."""
    base = type(processor)
    if issubclass(base, RaisedProcessor):
        raise ValueError("this processor is raised already: pass that of the base")

    route = ViewsRoute if settings.family.route == "views" else RepeatRoute
    members = {"view_settings": settings, "__doc__": base.__doc__}

    raised = copy.copy(processor)
    raised.__class__ = type(base.__name__, (route, base), members)
    return raised


class RaisedProcessor:
    """What a raised processor has beyond its class of transformers; a mixin before that class.

    Attributes:
        view_settings: how images are cut.
    """

    view_settings: ViewSettings

    def __reduce__(self) -> tuple:
        """Be pickled, for the workers of a data loader, as the base's processor that is raised again."""
        _, base = type(self).__bases__
        processor = base.__new__(base)
        vars(processor).update(vars(self))
        return raise_processor, (processor, self.view_settings)

    @property
    def model_input_names(self) -> list[str]:
        """Names of the model's inputs."""
        return [*super().model_input_names, "tile_index"]

    def _cut_all(self, images: Any) -> tuple[list[list[Image.Image]], list[list[int]]]:
        """Return the views of each image, and their numbers; images may be nested in lists, one a prompt."""
        flat = list(_flatten(images))
        grids = _spread(_requested_grids.get(), len(flat))
        cut = [self.view_settings.cut(image, grid) for image, grid in zip(flat, grids, strict=True)]
        return [views for views, _ in cut], [numbers for _, numbers in cut]

    def _check_places(self, features: Mapping[str, Any]) -> None:
        """Check that the views got places in the prompts.

        Raises:
            ValueError: they did not.
        """
        if "pixel_values" not in features:
            return
        if "tile_index" not in features:
            raise ValueError(
                f"{type(self).__name__} has prepared the images past the place where they are cut, so there "
                "are no tiles: this class of processors cannot be raised"
            )
        if "input_ids" not in features:
            return

        view_count = len(features["tile_index"])
        places = count_places(features, self.view_settings.image_token_id)
        expected = view_count * self.view_settings.tokens_per_view
        if places not in (None, expected):
            raise ValueError(
                f"the prompts hold {places} places for visual tokens, but {view_count} views x "
                f"{self.view_settings.tokens_per_view} tokens are {expected}: raise the max_length, or leave "
                "truncation out"
            )


class ViewsRoute(RaisedProcessor):
    """Lets the processor write its text for each view."""

    def __call__(self, *args: Any, grid: Any = None, **kwargs: Any) -> BatchFeature:
        """Prepare prompts and images as the base's processor does, with `tile_index` for the views.

        Args:
            grid: another grid than the first that the model was raised to, or a list of one an image; "auto"
                chooses by the shape of each image, and (0, 0) is the global view alone.
            args, kwargs: of the base's processor.

        Raises:
            ValueError: there are no adapters for the tiles of a grid, or as the base's processor.
        """
        token = _requested_grids.set(grid)
        try:
            features = super().__call__(*args, **kwargs)
        finally:
            _requested_grids.reset(token)

        self._check_places(features)
        return features

    def _process_images(self, images: Any, **kwargs: Any) -> tuple[Any, list[str]]:
        views, numbers = self._cut_all(images)
        options = {**kwargs, **self.view_settings.family.image_options}
        processed, texts = super()._process_images(_replace(images, iter(views)), **options)

        processed["tile_index"] = torch.tensor([number for of_image in numbers for number in of_image])
        counts = [len(of_image) for of_image in numbers]
        if "num_patches" in processed:
            # InternVL takes the pixels of an image by it.
            processed["num_patches"] = [
                sum(group) for group in _group(list(processed["num_patches"]), counts)
            ]

        # There is no text where only images are prepared.
        return processed, ["".join(group) for group in _group(texts, counts)] if texts else texts


class RepeatRoute(RaisedProcessor):
    """Repeats the places of one image for each of its views."""

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        grid: Any = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare prompts and images as the base's processor does, with `tile_index` for the views.

        Args:
            images, text: of the base's processor.
            grid: as in `ViewsRoute`.
            return_tensors: "pt", "np", or None for lists.
            kwargs: of the base's processor.

        Raises:
            ValueError: there are no adapters for the tiles of a grid, a prompt is longer than `max_length`,
                or as the base's processor.
        """
        options = {**kwargs, **self.view_settings.family.image_options}
        text = [text] if isinstance(text, str) else text
        if images is None:
            return super().__call__(images=None, text=text, return_tensors=return_tensors, **options)

        images = list(_flatten(images))
        token = _requested_grids.set(grid)
        try:
            views, numbers = self._cut_all(images)
        finally:
            _requested_grids.reset(token)

        data: dict[str, Any] = {}
        if text is not None:
            # With the images as wholes: the text of one image each, in lists.
            features = super().__call__(images=images, text=text, **options)
            data = self._repeat_places(features, [len(of_image) for of_image in numbers], kwargs)

        images_per_row = self._count_images(text, len(images))
        data |= self._prepare_views(views, images_per_row, options)
        data["tile_index"] = [number for of_image in numbers for number in of_image]

        features = BatchFeature(data, tensor_type=return_tensors)
        self._check_places(features)
        return features

    def _count_images(self, text: list[str] | None, image_count: int) -> list[int]:
        """Return the number of images of each prompt."""
        marker = image_marker(self)
        if text is None or not marker:
            return [1] * image_count
        return [prompt.count(marker) for prompt in text]

    def _prepare_views(
        self, views: list[list[Image.Image]], images_per_row: list[int], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return what the base's image processor makes of views: nested, one list a prompt, in Idefics."""
        if self.view_settings.family.has_marker:
            rows = [list(_flatten(row)) for row in _group(views, images_per_row)]
        else:
            rows = list(_flatten(views))
        merged = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **options)
        return dict(self.image_processor(rows, **merged["images_kwargs"]))

    def _repeat_places(
        self, features: Mapping[str, Any], view_counts: Sequence[int], options: Mapping[str, Any]
    ) -> dict[str, list]:
        """Repeat the places of each image for each of its views, in all arrays of one entry a token."""
        rows = [list(row) for row in features["input_ids"]]
        lengths = [len(row) for row in rows]
        remaining = iter(view_counts)

        # For each row, the positions of its tokens before the repetition.
        positions = []
        for number, row in enumerate(rows):
            is_padding = [not token for token in features["attention_mask"][number]]
            is_place = self._places(features, number, row)
            positions.append(self._repeat_row(is_place, is_padding, remaining))

        data = {}
        for name, values in features.items():
            if name.startswith("qformer_"):
                # InstructBLIP reads the question once for each view.
                rows_of_text = _put_text_first(values, features["qformer_attention_mask"])
                data[name] = [
                    row for row, count in zip(rows_of_text, view_counts, strict=True) for _ in range(count)
                ]
            elif np.ndim(values[0]) == 1 and [len(row) for row in values] == lengths:
                data[name] = [
                    [row[place] for place in order] for row, order in zip(values, positions, strict=True)
                ]

        return self._pad(data, options)

    def _places(self, features: Mapping[str, Any], number: int, row: Sequence[int]) -> list[bool]:
        mask = features.get("image_embeds_position_mask")
        if mask is not None:
            return [bool(place) for place in mask[number]]
        return [token == self.view_settings.image_token_id for token in row]

    def _repeat_row(
        self, is_place: Sequence[bool], is_padding: Sequence[bool], view_counts: Iterator[int]
    ) -> list[int]:
        """Return the positions of a row without padding, those of each image as often as it has views."""
        tokens = self.view_settings.tokens_per_view
        positions: list[int] = []
        of_image: list[int] = []
        for position, (place, padding) in enumerate(zip(is_place, is_padding, strict=True)):
            if place:
                of_image.append(position)
                if len(of_image) == tokens:
                    positions += of_image * next(view_counts)
                    of_image = []
            elif not padding:
                positions.append(position)
        return positions

    def _pad(self, data: dict[str, list], options: Mapping[str, Any]) -> dict[str, list]:
        """Pad rows as the options of a processor say.

        Raises:
            ValueError: a row is longer than `max_length`.
        """
        max_length, padding = options.get("max_length"), options.get("padding", False)
        longest = max(len(row) for row in data["input_ids"])
        if max_length is not None and longest > max_length:
            raise ValueError(
                f"a prompt with all views has {longest} tokens, max_length is {max_length}: raise it, or "
                "take fewer tiles"
            )
        if not padding or padding == "do_not_pad":
            return data

        length = max_length if padding == "max_length" and max_length is not None else longest
        side = options.get("padding_side") or self.tokenizer.padding_side
        padded = {}
        for name, rows in data.items():
            if name.startswith("qformer_"):
                padded[name] = rows
                continue
            value = self.tokenizer.pad_token_id if name == "input_ids" else 0
            padded[name] = [_pad_row(row, length, value, side) for row in rows]
        return padded


def _pad_row(row: list[int], length: int, value: int, side: str) -> list[int]:
    padding = [value] * (length - len(row))
    return padding + row if side == "left" else row + padding


def _put_text_first(rows: Sequence[Sequence[int]], masks: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return rows with padding behind the text: a Q-Former counts positions from the beginning."""
    return [
        [row[position] for position in sorted(range(len(row)), key=lambda n, mask=mask: not mask[n])]
        for row, mask in zip(rows, masks, strict=True)
    ]


def _flatten(images: Any) -> Iterator[Any]:
    """Yield the images of nested lists."""
    if isinstance(images, list | tuple):
        for image in images:
            yield from _flatten(image)
    else:
        yield images


def _replace(images: Any, views: Iterator[list[Image.Image]]) -> list:
    """Return images with the views of each in its place: in one list a prompt where images are nested so."""
    if not isinstance(images, list | tuple):
        return next(views)
    if any(isinstance(entry, list | tuple) for entry in images):
        return [[view for _ in entry for view in next(views)] for entry in images]
    return [view for _ in images for view in next(views)]


def _group(items: Sequence[Any], counts: Sequence[int]) -> list[list[Any]]:
    """Split a list into groups of these sizes."""
    remaining = iter(items)
    return [[next(remaining) for _ in range(count)] for count in counts]


def _spread(grid: Any, count: int) -> list[Any]:
    """Return a grid for each image, of one for all or a list of one each.

    Raises:
        ValueError: a list of another length.
    """
    if not isinstance(grid, list):
        return [grid] * count
    if len(grid) != count:
        raise ValueError(f"got {count} images and {len(grid)} grids: pass one grid, or one for each image")
    return grid
