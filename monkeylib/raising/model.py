"""The model side: a model of transformers that takes `tile_index`, the number of the tile of each view."""

import functools
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from transformers import PreTrainedModel

from monkeylib.errors import shorten
from monkeylib.raising import files
from monkeylib.raising.adapters import (
    ADAPTERS,
    LayerAdapters,
    TowerState,
    add_adapters,
    checkpoint_with_views,
    layer_adapters,
)
from monkeylib.raising.places import count_places
from monkeylib.raising.settings import RaisingSettings
from monkeylib.raising.tower import find_tower
from monkeylib.raising.views import CheckpointedPart, ViewState


class RaisedModel:
    """What a raised model has beyond its class of transformers; a mixin before that class.

    Attributes:
        view_state: which views the tower is about to read.
        raising_settings: how it was raised.
    """

    view_state: ViewState
    raising_settings: RaisingSettings

    def generate(self, *args: Any, tile_index: Any = None, **kwargs: Any) -> Any:
        """Generate as the model does, with the adapters of the views' tiles.

        Args:
            tile_index: `[V]` number of each view's tile, -1 for a global view; without it, the model is the
                base.
            args, kwargs: of the model's own `generate`.
        """
        if tile_index is not None:
            input_ids = kwargs.get("input_ids", args[0] if args else None)
            check_places(self, {**kwargs, "input_ids": input_ids}, len(tile_index))

        # Views are encoded before the first token, by a method that takes no `tile_index`.
        with self.view_state.use(tile_index):
            return super().generate(*args, **kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save all weights as the model does, and what was learned as `files.write_raised` does.

        The base's class, which would load the weights without the adapters, refuses the folder
        (`files.mark_config`); `monkeylib.load_raised` reads it.

        Raises:
            FileExistsError: the folder holds another model.
            ValueError: `push_to_hub`, which is a method of the raised model and its processor.
        """
        if kwargs.get("push_to_hub"):
            self.push_to_hub()
        folder = Path(save_directory)
        if files.holds_other_model(folder):
            raise FileExistsError(f"{folder} holds a model that is not raised: name a new folder")

        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            files.mark_config(folder)
            files.write_files(self, self.raising_settings, folder)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: transformers would put all weights of the base, and the folder it came from, on the hub.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "a raised model goes to the hub by `push_to_hub` of what `raise_resolution` returned"
        )

    def _set_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        super()._set_gradient_checkpointing(*args, **kwargs)
        checkpoint_with_views(find_tower(self), self.view_state)


class CallState:
    """The numbers of the views of a call, taken from its arguments and put away after it.

    Hooks see the arguments also where accelerate has put another `forward` on the model.

    Args:
        state: of the model.
    """

    def __init__(self, state: ViewState) -> None:
        self.state = state

    def attach(self, model: nn.Module) -> None:
        """Register the hooks."""
        model.register_forward_pre_hook(self._begin, with_kwargs=True)
        model.register_forward_hook(self._end, always_call=True)

    def _begin(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        tile_index = kwargs.pop("tile_index", None)
        self.state.push(tile_index)
        if tile_index is not None and kwargs.get("pixel_values") is not None:
            input_ids = kwargs.get("input_ids", args[0] if args else None)
            check_places(model, {**kwargs, "input_ids": input_ids}, len(tile_index))
        return args, kwargs

    def _end(self, *_: Any) -> None:
        self.state.pop()


def check_places(model: Any, inputs: Mapping[str, Any], view_count: int) -> None:
    """Check that a prompt has as many places as the views have tokens.

    Some models don't: BLIP-2 fills what places there are, and silently leaves the other views out.

    Args:
        model: raised.
        inputs: `input_ids` `[B, T]`, and of Kosmos-2 also `image_embeds_position_mask`.
        view_count: number of views.

    Raises:
        ValueError: it has not.
    """
    places = count_places(inputs, getattr(model.config, "image_token_id", None))
    tokens = model.raising_settings.tokens_per_view
    expected = view_count * tokens
    if places is not None and places != expected:
        raise ValueError(
            f"the prompt holds {places} places for visual tokens, {view_count} views x "
            f"{tokens} tokens are {expected}: build prompt and views with one call of the "
            "raised processor"
        )


def raise_model(model: PreTrainedModel, settings: RaisingSettings) -> PreTrainedModel:
    """Add adapters to a model, in place, and have it take `tile_index`.

    Everything is frozen but the adapters; in the mode "full", all but the vision tower.

    Args:
        model: of transformers.
        settings: how to raise it.

    Returns:
        The same model, of a class of the same name that takes `tile_index`.

    Raises:
        ValueError: the model is raised already, is of another class, or lacks a layer.
    """
    if isinstance(model, RaisedModel):
        raise ValueError("this model is raised already: load the base anew to raise it differently")
    if type(model).__name__ != settings.family:
        raise ValueError(f"the model is a {type(model).__name__}: expected a {settings.family}")

    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if missing := sorted(settings.ranks.keys() - linears):
        raise ValueError(
            f"{settings.family} has no linear layer {missing[0]}, beside which there are adapters: take the "
            "base that was raised"
        )

    state = ViewState(settings.adapter_of_tile)
    tower = find_tower(model)
    model.requires_grad_(False)
    tower.requires_grad_(settings.mode == "full")
    add_adapters(model, settings.ranks, len(settings.adapter_names), settings.dropout, state)

    TowerState(state).attach(tower)
    CallState(state).attach(model)
    checkpoint_with_views(tower, state)

    model.__class__ = raised_class(type(model))
    model.view_state = state
    model.raising_settings = settings
    _extend_patched_forward(model)
    return model


def ranks_of_layers(layers: Sequence[str], rank: int | Mapping[str, int]) -> dict[str, int]:
    """Return the rank of the adapters beside each layer.

    Args:
        layers: names in the tower.
        rank: one for all, or one for names or ends of names; layers that none fits have no adapters.

    Raises:
        ValueError: a rank below 1, or a name that fits no layer.

    >>> ranks_of_layers(["0.attn.q_proj", "0.mlp.fc1"], {"q_proj": 8})
    {'0.attn.q_proj': 8}
    """
    rank_of = dict(rank) if isinstance(rank, Mapping) else {"": rank}
    if not rank_of or not all(type(value) is int and value >= 1 for value in rank_of.values()):
        raise ValueError(f"rank is {shorten(rank)}: expected a whole number from 1, or one for each layer")

    ranks = {}
    unused = set(rank_of)
    for layer in layers:
        fitting = [name for name in rank_of if not name or layer == name or layer.endswith(f".{name}")]
        if fitting:
            ranks[layer] = rank_of[max(fitting, key=len)]
            unused -= set(fitting)

    if unused:
        ends = sorted({layer.rpartition(".")[2] for layer in layers})
        raise ValueError(
            f"no layer of the vision tower is called {min(unused)!r}: there are {', '.join(ends)}"
        )
    return ranks


@functools.cache
def raised_class(base: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Return the class of raised models of a class of transformers, by the same name.

    Saved configurations and transformers' tables of models go by that name.
    """
    return type(base.__name__, (RaisedModel, base), {"forward": _forward_of(base), "__doc__": base.__doc__})


def _forward_of(base: type[PreTrainedModel]) -> Any:
    """Return a forward that has `tile_index` in its signature, where Trainer and `generate` look for it."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        # A hook of the model has taken `tile_index` out.
        return base.forward(self, *args, **kwargs)

    functools.update_wrapper(forward, base.forward)
    forward.__signature__ = _add_argument(inspect.signature(base.forward))
    return forward


def _add_argument(signature: inspect.Signature) -> inspect.Signature:
    """Return a signature with `tile_index` before the other keywords."""
    parameters = list(signature.parameters.values())
    added = inspect.Parameter("tile_index", inspect.Parameter.KEYWORD_ONLY, default=None)
    ends_with_keywords = parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
    place = len(parameters) - 1 if ends_with_keywords else len(parameters)
    return signature.replace(parameters=[*parameters[:place], added, *parameters[place:]])


def _extend_patched_forward(model: PreTrainedModel) -> None:
    """Add `tile_index` to the signature of a forward that accelerate has put on the model itself."""
    patched = vars(model).get("forward")
    if patched is not None:
        patched.__signature__ = _add_argument(inspect.signature(patched))


def merge_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """Add the one adapter of the mode "shared" to the tower's weights, and take it away.

    Weights don't know which view they meet: merged, they are also those of the global view, which met no
    adapter before.

    Returns:
        The same model, as one of its base class, which takes no `tile_index` and is saved as any other.

    Raises:
        ValueError: each tile has its own adapter, there is none, or a layer is quantised.
    """
    adapters = layer_adapters(model)
    if not adapters or any(len(module) != 1 for module in adapters.values()):
        raise ValueError(
            'only the adapters of the mode "shared" can be merged: each tile of "per_tile" needs its own '
            "weights"
        )
    for name in adapters:
        if not model.get_submodule(name).weight.dtype.is_floating_point:
            raise ValueError(
                f"{name} is quantised, and nothing can be merged into its bits: load the base in full"
            )

    for name, module in adapters.items():
        layer, adapter = model.get_submodule(name), module[0]
        with torch.no_grad():
            update = adapter.scaling.float() * adapter.lora_B[0].float() @ adapter.lora_A[0].float()
            layer.weight.copy_(layer.weight.float() + update)

    detach(model)
    return model


def detach(model: PreTrainedModel) -> None:
    """Take adapters, hooks and the argument `tile_index` away: the model is its base again."""
    for name in layer_adapters(model):
        layer = model.get_submodule(name)
        _remove_hooks(layer, LayerAdapters)
        delattr(layer, ADAPTERS)

    tower = find_tower(model)
    _remove_hooks(tower, TowerState)
    _remove_hooks(model, CallState)
    for module in tower.modules():
        checkpoint = vars(module).get("_gradient_checkpointing_func")
        if isinstance(checkpoint, CheckpointedPart):
            module._gradient_checkpointing_func = checkpoint.checkpoint

    _, model.__class__ = type(model).__bases__
    del model.view_state, model.raising_settings


def _remove_hooks(module: nn.Module, owner: type) -> None:
    """Remove the hooks of a module that are methods of a class of ours."""
    hooks = {**module._forward_pre_hooks, **module._forward_hooks}
    keys = [key for key, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), owner)]
    for registry in (
        module._forward_pre_hooks,
        module._forward_pre_hooks_with_kwargs,
        module._forward_hooks,
        module._forward_hooks_always_called,
    ):
        for key in keys:
            registry.pop(key, None)
