"""Per-tile LoRA beside the linear layers of a vision tower of transformers.

The tower's code runs unchanged: a hook on each layer adds to its output what the adapters of the views give.
Inside a tower, a layer sees `[V, n, d]`, `[1, V * n, d]` (Pixtral), `[V * windows, n, d]` or `[V, h, w, d]`;
in all of them the views come one after the other, so `reshape(V, -1, d)` tells them apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from monkeylib.model.tile_lora import TileLoRA
from monkeylib.raising.views import CheckpointedPart, Part, ViewState

# Name of the adapters as a submodule of the layer that they stand beside.
ADAPTERS = "tile_lora"


class LayerAdapters(nn.ModuleList):
    """The adapters beside one linear layer: a `TileLoRA` of its own for each tile.

    Each tile's weights are parameters of their own, not rows of one: an optimiser then leaves the adapters of
    tiles alone that a batch does not hold, weight decay and momentum included.

    Args:
        count: number of adapters.
        rank: of each.
        layer: the linear layer; the adapters take its device, and its precision unless that is quantised.
        dropout: before each.
        state: says which view meets which adapter.
    """

    def __init__(self, count: int, rank: int, layer: nn.Linear, dropout: float, state: ViewState) -> None:
        sizes = (rank, layer.in_features, layer.out_features, dropout)
        super().__init__(TileLoRA(1, *sizes) for _ in range(count))
        self.state = state

        weight = layer.weight
        dtype = weight.dtype if weight.dtype.is_floating_point else torch.float32
        # As peft does, the scaling stays at 1: a learned one and A would be the same degree of freedom.
        for adapter in self:
            adapter.to(device=weight.device, dtype=dtype)
            adapter.scaling.requires_grad_(False)

    def add(self, layer: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        """Add what the adapters give for the layer's input; a forward hook of the layer.

        Returns:
            The layer's output, changed in place.

        Raises:
            RuntimeError: the layer runs again for a backward pass, and nobody knows for which views.
        """
        plan = self.state.plan
        if plan is None:
            _refuse_unplanned_backward()
            return output
        if not plan.parts:
            return output

        x = args[0].reshape(plan.view_count, -1, args[0].shape[-1])
        views = output.reshape(plan.view_count, -1, output.shape[-1])
        for part in plan.parts:
            self._add_to_part(views[part.views], x[part.views], part)
        return views.reshape(output.shape)

    def _add_to_part(self, output: torch.Tensor, x: torch.Tensor, part: Part) -> None:
        """Add `scaling_i * B_i A_i dropout(x)` in place: x `[v, n, d_in]`, output `[v, n, d_out]`."""
        adapters = [self[number] for number in part.adapters]
        # [v, rank, d_in] and [v, d_out, rank], or one for all views
        scaling = torch.cat([adapter.scaling for adapter in adapters])
        lora_A = torch.cat([adapter.lora_A for adapter in adapters]) * scaling[:, None, None]
        lora_B = torch.cat([adapter.lora_B for adapter in adapters])
        if len(adapters) == 1:
            lora_A, lora_B = lora_A.expand(len(x), -1, -1), lora_B.expand(len(x), -1, -1)

        x = F.dropout(x, adapters[0].dropout, self.training).to(lora_A.dtype)
        low_rank = torch.bmm(x, lora_A.transpose(1, 2))  # [v, n, rank]

        # Autocast does not reach in-place products: both factors are cast to the precision of `output`.
        low_rank, lora_B = low_rank.to(output.dtype), lora_B.to(output.dtype)
        output.baddbmm_(low_rank, lora_B.transpose(1, 2))


def _refuse_unplanned_backward() -> None:
    # Tells whether autograd runs in this thread; -1 if it does not.
    if torch._C._current_graph_task_id() != -1:
        raise RuntimeError(
            "the vision tower runs again for the backward pass by a way that does not say for which views, "
            "so that gradients would be wrong: checkpoint it by `model.activation_checkpointing_enable()`"
        )


def add_adapters(
    model: nn.Module, ranks: Mapping[str, int], count: int, dropout: float, state: ViewState
) -> None:
    """Put adapters beside layers of a model.

    Args:
        model: that holds the layers.
        ranks: rank for each layer, by its name.
        count: adapters of each layer.
        dropout: before each.
        state: of the model.
    """
    for name, rank in ranks.items():
        layer = model.get_submodule(name)
        adapters = LayerAdapters(count, rank, layer, dropout, state)
        adapters.train(layer.training)
        layer.add_module(ADAPTERS, adapters)
        layer.register_forward_hook(adapters.add)


def layer_adapters(model: nn.Module) -> dict[str, LayerAdapters]:
    """Return the adapters in a model by the names of their layers."""
    return {
        name.removesuffix(f".{ADAPTERS}"): module
        for name, module in model.named_modules()
        if isinstance(module, LayerAdapters)
    }


class TowerState:
    """The plan of the views of a vision tower, made before it runs and taken away after.

    Args:
        state: of the model.
    """

    def __init__(self, state: ViewState) -> None:
        self.state = state

    def attach(self, tower: nn.Module) -> None:
        """Register the hooks."""
        tower.register_forward_pre_hook(self._begin, with_kwargs=True)
        tower.register_forward_hook(self._end, always_call=True)

    def _begin(self, tower: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self.state.tile_index is not None:
            check_equal_sizes(kwargs.get("image_sizes"))
        self.state.begin(count_views(args, kwargs))

    def _end(self, *_: Any) -> None:
        self.state.end()


def count_views(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Return the number of rows of the pixels among the arguments of a tower."""
    pixels = kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]
    return len(pixels)


def check_equal_sizes(image_sizes: Any) -> None:
    """Check that the views of a tower that reads any size are equally large.

    Pixtral puts all patches in one row, where only equal views can be told apart.

    Raises:
        ValueError: they are not.
    """
    if image_sizes is None:
        return
    sizes = torch.as_tensor(image_sizes)
    if (sizes != sizes[:1]).any():
        different = sorted({tuple(size) for size in sizes.tolist()})
        raise ValueError(
            f"views of different sizes, {' and '.join(f'{h}x{w}' for h, w in different[:2])} pixels, cannot "
            "be told apart in this vision tower: prepare the images with the raised processor, which makes "
            "all views equally large"
        )


def checkpoint_with_views(tower: nn.Module, state: ViewState) -> None:
    """Have the gradient checkpointing of a tower remember its views."""
    for module in tower.modules():
        checkpoint = vars(module).get("_gradient_checkpointing_func")
        if checkpoint is not None and not isinstance(checkpoint, CheckpointedPart):
            module._gradient_checkpointing_func = CheckpointedPart(checkpoint, state)
