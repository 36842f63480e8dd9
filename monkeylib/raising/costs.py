"""What raising a model costs: tokens, operations, and bytes, counted on its real code without any weights.

The model is built anew on tensors that have shapes and no values, so that one of 24 billion parameters is
counted on a laptop in seconds. Nothing is derived by hand: PyTorch counts the operations of the forward pass
of transformers with views, places and adapters in it.
"""

import contextlib
import copy
import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from monkeylib.model.limits import check_size
from monkeylib.raising.adapters import layer_adapters
from monkeylib.raising.families import refusal
from monkeylib.raising.grids import GLOBAL_VIEW, TileGrids
from monkeylib.raising.model import RaisedModel, raise_model, ranks_of_layers
from monkeylib.raising.settings import RaisingSettings
from monkeylib.raising.tower import encode_image, find_tower, tower_name, try_image

# Bytes of a weight, a key or a value in bfloat16.
_VALUE_BYTES = 2
_MOST_TEXT = 1_000_000

# Models that take the views of each prompt in a dimension of their own.
_NESTED = ("idefics2", "idefics3", "smolvlm")


@dataclass(frozen=True)
class PromptCosts:
    """What reading one prompt with one image costs, up to its first new token.

    A multiplication and its addition count as two operations; norms, activations and softmax do not count,
    and attention counts in full, although a causal mask needs half of it.

    Fields:
        views: of the image.
        visual_tokens: places that they take.
        tower: operations of the vision tower without adapters.
        adapters: operations of the adapters.
        connector: operations between tower and language model: a projector, a resampler or a Q-Former.
        language_model: operations of the language model, logits of the last position included.
        cache_bytes: of keys and values in bfloat16.
    """

    views: int
    visual_tokens: int
    tower: int
    adapters: int
    connector: int
    language_model: int
    cache_bytes: int

    @property
    def flops(self) -> int:
        """All floating-point operations."""
        return self.tower + self.adapters + self.connector + self.language_model


@dataclass(frozen=True)
class RaisingCosts:
    """What a model costs as it is, with one view, and raised to a grid.

    Fields:
        family: class of the model.
        grids: that it is raised to.
        rank: of the adapters.
        tile_size: side of a view in pixels.
        tokens_per_view: places that a view takes in a prompt.
        text_tokens: tokens of the prompt beside these.
        positions: tokens that the language model reads, None where its configuration doesn't say.
        parameters: of the model without adapters.
        adapter_parameters: of the adapters of all tiles.
        weight_bytes: of all weights in bfloat16, adapters included.
        base: the model as it is, with one view.
        raised: with tiles and the global view.
    """

    family: str
    grids: TileGrids
    rank: int
    tile_size: int
    tokens_per_view: int
    text_tokens: int
    positions: int | None
    parameters: int
    adapter_parameters: int
    weight_bytes: int
    base: PromptCosts
    raised: PromptCosts

    @property
    def fits(self) -> bool:
        """Whether the text positions hold the raised model's prompt."""
        return self.positions is None or self.raised.visual_tokens + self.text_tokens <= self.positions

    @property
    def ratio(self) -> float:
        """Operations of the raised model, divided by those of the base."""
        return self.raised.flops / self.base.flops

    def __str__(self) -> str:
        read = "" if self.positions is None else f" of {self.positions:,} positions"
        return (
            f"{self.family} raised to {self.grids}: {self.raised.views} views x {self.tokens_per_view} "
            f"tokens and {self.text_tokens} of text are {self.raised.visual_tokens + self.text_tokens:,} "
            f"tokens{read}; {self.raised.flops / 1e12:.3g} TFLOPs in place of {self.base.flops / 1e12:.3g}, "
            f"{self.weight_bytes / 1e9:.3g} GB of weights and {self.raised.cache_bytes / 1e9:.3g} GB of keys "
            f"and values in bfloat16; the adapters have {self.adapter_parameters / 1e6:.3g} M parameters"
        )


def raising_costs(
    model: PreTrainedModel,
    grid: Any = (2, 2),
    rank: int = 16,
    text_tokens: int = 128,
    tile_size: int | None = None,
) -> RaisingCosts:
    """Count what raising a model to a grid costs, for a prompt with one image. The model is only read.

        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(name))
        print(raising_costs(model))

    Its weights are not needed: it may lie on the meta device. Whether it can be raised is told by
    `check_raising`, which needs its processor too. Tokens that a processor writes around each view count as
    text.

    Args:
        model: of transformers; of a raised one, the base is counted.
        grid: rows and columns, also as "2x3".
        rank: of the adapters beside all layers of the tower that `check_raising` finds.
        text_tokens: length of the prompt without the image.
        tile_size: side of a view in pixels, by default that of the vision tower's configuration, which
            of a model that reads images of any size is the largest one.

    Raises:
        ValueError: the model is of a family that isn't raised or that encodes images in a way of its own, or
            an argument is impossible.
    """
    grids = TileGrids.of(grid)
    if len(grids.grids) != 1:
        raise ValueError(f"grid is {grid!r}: expected one grid, such as (2, 2), since each costs differently")
    check_size("text_tokens", text_tokens, _MOST_TEXT)
    name = type(model).__name__
    if reason := refusal(model.config):
        raise ValueError(f"{name} cannot be raised: it {reason}")

    side = tile_size or _default_side(model)
    model, parameters = _without_weights(model)
    with _WeightlessMode():
        dry_run = try_image(model, _image_inputs(model, 1, side, text_tokens))
        tower = tower_name(model)
        layers = [f"{tower}.{layer}" for layer in dry_run.layers]
        settings = RaisingSettings(
            family=name,
            base="",
            grids=grids,
            ranks=ranks_of_layers(layers, rank),
            mode="per_tile",
            dropout=0.0,
            tile_size=side,
            tokens_per_view=dry_run.tokens,
            resize_mode="stretch",
            resizes_global_view=tile_size is not None,
        )
        raise_model(model, settings)

        counter = _Counter(model, dry_run.tokens, side, text_tokens)
        base = counter.count([GLOBAL_VIEW])
        raised = counter.count([*range(grids.largest), GLOBAL_VIEW])

    adapter_parameters = sum(
        parameter.numel()
        for adapters in layer_adapters(model).values()
        for parameter in adapters.parameters()
        if parameter.requires_grad
    )
    return RaisingCosts(
        family=name,
        grids=grids,
        rank=rank,
        tile_size=side,
        tokens_per_view=dry_run.tokens,
        text_tokens=text_tokens,
        positions=getattr(model.config.get_text_config(), "max_position_embeddings", None),
        parameters=parameters,
        adapter_parameters=adapter_parameters,
        weight_bytes=_VALUE_BYTES * (parameters + adapter_parameters),
        base=base,
        raised=raised,
    )


def _default_side(model: PreTrainedModel) -> int:
    side = getattr(getattr(model.config, "vision_config", None), "image_size", None)
    if side is None:
        raise ValueError(
            f"the configuration of {type(model).__name__} does not say how large its views are: name a "
            "tile_size, the side in pixels that its image processor resizes to"
        )
    return side if isinstance(side, int) else side[0]


def _without_weights(model: PreTrainedModel) -> tuple[PreTrainedModel, int]:
    """Return the base of a model anew, on the meta device, and its number of parameters."""
    config = copy.deepcopy(model.config)
    # Fused attention differs between devices; in this one each product is an operation of its own.
    config._attn_implementation = "eager"
    kind = type(model).__bases__[1] if isinstance(model, RaisedModel) else type(model)
    with torch.device("meta"):
        built = kind(config).eval()

    built.requires_grad_(False)
    # `parameters` gives each tied one once.
    parameters = sum(parameter.numel() for parameter in built.parameters())
    return built, parameters


def _image_inputs(model: PreTrainedModel, views: int, side: int, text_tokens: int) -> dict[str, Tensor]:
    """Return what a model encodes views from, by the names of its arguments."""
    # Idefics leaves views out that are 0 everywhere.
    pixels = torch.ones(views, 3, side, side)
    inputs = {"pixel_values": pixels[None] if model.config.model_type in _NESTED else pixels}

    arguments = inspect.signature(type(model).forward).parameters
    if model.config.vision_config.model_type == "pixtral":
        inputs["image_sizes"] = torch.tensor([[side, side]] * views)
    if "qformer_input_ids" in arguments:
        inputs["qformer_input_ids"] = torch.zeros(views, text_tokens, dtype=torch.long)
    return inputs


class _Counter:
    """Counts what a prompt with one image costs.

    Args:
        model: without weights.
        tokens_per_view: places that a view takes.
        side: of a view in pixels.
        text_tokens: of the prompt.
    """

    def __init__(self, model: PreTrainedModel, tokens_per_view: int, side: int, text_tokens: int) -> None:
        self.model = model
        self.tokens_per_view = tokens_per_view
        self.side = side
        self.text_tokens = text_tokens

        # `generate` asks for the logits of the last position alone.
        head = model.get_output_embeddings()
        head.register_forward_pre_hook(lambda _, args: (args[0][:, -1:],))

    @torch.no_grad()
    def count(self, tile_index: list[int]) -> PromptCosts:
        """Count a prompt with one image.

        Args:
            tile_index: number of each view's tile; a global view meets no adapter.
        """
        views = len(tile_index)
        inputs = _image_inputs(self.model, views, self.side, self.text_tokens)
        tower = find_tower(self.model)

        # The image alone, without adapters.
        with _count_with_part(tower) as image:
            encode_image(self.model, inputs)
        connector = image.total - image.part

        with _count_with_part(tower) as prompt:
            numbers = torch.tensor(tile_index)
            output = self.model(**inputs, **self._text_inputs(views), tile_index=numbers, use_cache=True)
        return PromptCosts(
            views=views,
            visual_tokens=views * self.tokens_per_view,
            tower=image.part,
            adapters=prompt.part - image.part,
            connector=connector,
            language_model=prompt.total - prompt.part - connector,
            cache_bytes=_VALUE_BYTES * _cached_values(output),
        )

    def _text_inputs(self, views: int) -> dict[str, Tensor]:
        """Return a prompt of places and text."""
        places = views * self.tokens_per_view
        place = self.model.config.image_token_id
        text = 0 if place != 0 else 1
        input_ids = torch.full((1, places + self.text_tokens), text)
        input_ids[:, :places] = place

        inputs = {"input_ids": input_ids}
        if self.model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = torch.zeros(1, 1, dtype=torch.long)
        return inputs


def _cached_values(output: Any) -> int:
    """Return the number of keys and values that a forward pass has left."""
    inner = output if "past_key_values" in output else output.language_model_outputs
    caches = inner.past_key_values
    layers = [
        layer
        for part in ("self_attention_cache", "cross_attention_cache")
        for layer in getattr(caches, part, caches).layers
    ]
    tensors = {id(tensor): tensor for layer in layers for tensor in (layer.keys, layer.values)}
    return sum(tensor.numel() for tensor in tensors.values())


def count_operations() -> FlopCounterMode:
    """Return PyTorch's counter of operations, told of the in-place product of adapters."""

    def product(_: Any, a: Any, b: Any, **__: Any) -> int:
        return 2 * math.prod(a) * b[-1]

    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: product})


@dataclass
class _Operations:
    """Operations of a block of code, and those of one module among them."""

    total: int = 0
    part: int = 0


@contextlib.contextmanager
def _count_with_part(module: nn.Module) -> Iterator[_Operations]:
    """Count the operations of a block; the result is there after it."""
    counts = _Operations()
    with count_operations() as counter:

        def begin(*_: Any) -> None:
            counts.part -= counter.get_total_flops()

        def end(*_: Any) -> None:
            counts.part += counter.get_total_flops()

        handles = [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
        try:
            yield counts
        finally:
            for handle in handles:
                handle.remove()
    counts.total = counter.get_total_flops()


class _WeightlessMode(TorchDispatchMode):
    """Weights, and what is computed from them, lie on the meta device; all other tensors are real.

    Models look at values of ids, masks and pixels, all of which are small: which positions are places, which
    views are padding. On the meta device they would be lost.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation for real, unless a tensor without values takes part."""
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        is_real = not any(tensor.is_meta for tensor in tensors)
        # What is made for, or sent to, the device of the weights keeps its values; what has none gets none.
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu" if is_real else "meta")
        if is_real:
            return func(*args, **kwargs)

        # The shape of what a mask selects depends on the mask: turn it into indices.
        if func is torch.ops.aten.index.Tensor:
            values, indices = args
            args = (values, [part for index in indices for part in _as_indices(index)])
        args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
        return func(*args, **kwargs)


def _as_indices(index: Tensor | None) -> tuple[Tensor | None, ...]:
    is_mask = index is not None and index.dtype == torch.bool and not index.is_meta
    return index.nonzero().unbind(1) if is_mask else (index,)
