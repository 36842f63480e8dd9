"""The vision tower of a model of transformers, and those of its linear layers that can learn anything.

A dry run encodes one image and follows the gradient back: a layer gets adapters if the image's features
depend on its output. That leaves out pooling heads, and layers above the one whose features are read, beside
which adapters would never get a gradient.
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from monkeylib.raising.adapters import count_views
from monkeylib.raising.places import count_places


@dataclass(frozen=True)
class DryRun:
    """What one image has shown about a model.

    Fields:
        layers: names in the tower of the linear layers that its features depend on.
        linear_count: number of linear layers in the tower.
        view_count: rows that the tower has read.
        tokens: features of the image, each of which takes one place in the prompt.
    """

    layers: list[str]
    linear_count: int
    view_count: int
    tokens: int


def find_tower(model: PreTrainedModel) -> nn.Module:
    """Return the vision encoder of a model.

    Raises:
        ValueError: transformers finds none.
    """
    tower = model.get_encoder(modality="image")
    if tower is model or tower is model.base_model:
        raise ValueError(
            f"{type(model).__name__} has no vision tower that transformers finds "
            '(`get_encoder(modality="image")`), so there is nothing to put adapters into'
        )
    return tower


def tower_name(model: PreTrainedModel) -> str:
    """Return the name of the tower among the modules of its model."""
    tower = find_tower(model)
    return next(name for name, module in model.named_modules() if module is tower)


def try_image(model: PreTrainedModel, inputs: Mapping[str, Any]) -> DryRun:
    """Encode one image, and see which linear layers of the tower its features depend on.

    Args:
        model: untouched.
        inputs: of the model, for one image that is one view.

    Raises:
        ValueError: the model encodes images in a way of its own.
    """
    tower = find_tower(model)
    linears = {name: module for name, module in tower.named_modules() if isinstance(module, nn.Linear)}
    outputs: dict[str, torch.Tensor] = {}
    view_counts: list[int] = []

    def record(name: str) -> Any:
        def hook(_: nn.Module, __: tuple, output: torch.Tensor) -> torch.Tensor:
            # Weights may be frozen; the gradient then begins at the first layer.
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            outputs[name] = output
            return output

        return hook

    handles = [module.register_forward_hook(record(name)) for name, module in linears.items()]
    handles.append(
        tower.register_forward_pre_hook(
            lambda _, args, kwargs: view_counts.append(count_views(args, kwargs)), with_kwargs=True
        )
    )
    try:
        with torch.enable_grad():
            features = encode_image(model, inputs)
            # Kosmos-2 cannot encode images alone: follow the gradient from the very end.
            ends = [model(**inputs).logits] if features is None else features
            loss = sum(end.float().sum() for end in ends)
            gradients = torch.autograd.grad(loss, list(outputs.values()), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()

    layers = [
        name
        for name, gradient in zip(outputs, gradients, strict=True)
        if gradient is not None and _is_in_numbered_block(name)
    ]
    if features is None:
        tokens = count_places(inputs, getattr(model.config, "image_token_id", None)) or 0
    else:
        tokens = sum(feature[..., 0].numel() for feature in features)
    return DryRun(
        layers=sorted(layers, key=list(linears).index),
        linear_count=len(linears),
        view_count=sum(view_counts),
        tokens=tokens,
    )


def encode_image(model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[torch.Tensor] | None:
    """Return the features of images as `generate` computes them, tensors `[..., width]`.

    None for a model that cannot encode images without a prompt.
    """
    output = run_image_encoder(model, inputs)
    if output is None:
        return None
    features = output.pooler_output
    return [features] if isinstance(features, torch.Tensor) else list(features)


def run_image_encoder(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Any:
    """Return what encodes images as `generate` has it, an output with `pooler_output`; or None."""
    function = getattr(model.base_model, "get_image_features", None)
    if function is None:
        return None

    # As `generate` selects them.
    names = inspect.signature(function).parameters
    arguments = {name: inputs[name] for name in names if name in inputs}
    return function(**arguments, return_dict=True)


def _is_in_numbered_block(name: str) -> bool:
    """Tell whether a module lies in a list of blocks; what lies outside is no part of the transformer."""
    return re.search(r"(^|\.)\d+\.", name) is not None
