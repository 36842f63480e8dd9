"""A ViT of transformers (CLIP, DINOv2, SigLIP) in the place of ours, with the same adapters per tile.

The library's own code runs, unchanged; hooks on its projections add the adapters' part.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig

from monkeylib.model.config import MonkeyConfig
from monkeylib.model.lora import TileLoRA
from monkeylib.model.vision import VisionBackbone


@dataclass(frozen=True)
class Layout:
    """Names inside a ViT of transformers: its blocks, and in a block the attention, its output projection,
    the norm before the MLP, and what gives the MLP's part of the sum.

    `class_tokens` come before the patches; `options` make it interpolate its position table.
    """

    blocks: str
    attention: str
    out: str
    mlp_norm: str
    mlp_end: str
    class_tokens: int
    options: dict[str, Any] = field(default_factory=dict)


_INTERPOLATE = {"interpolate_pos_encoding": True}
LAYOUTS = {
    "clip_vision_model": Layout(
        "encoder.layers", "self_attn", "out_proj", "layer_norm2", "mlp", 1, _INTERPOLATE
    ),
    "dinov2": Layout("encoder.layer", "attention", "o_proj", "norm2", "layer_scale2", 1),
    "siglip_vision_model": Layout(
        "encoder.layers", "self_attn", "out_proj", "layer_norm2", "mlp", 0, _INTERPOLATE
    ),
}


class BlockLoRA(nn.Module):
    """The adapters of one block: beside query, key, value and output of its attention, and beside its MLP.

    The MLP's adapter by-passes the MLP (and, in DINOv2, its layer scale) and reads what the configuration's
    `mlp_lora_input` says: as in the release the un-normalised residual stream. Query, key and value have
    an adapter each; the release's ViT fuses them into one. Class tokens meet the adapters too.

    The block hands its keyword `lora_groups` on to its attention, where it is taken out again, so that a
    block which gradient checkpointing runs twice meets the same adapters twice.
    """

    def __init__(self, config: MonkeyConfig, block: nn.Module, layout: Layout) -> None:
        super().__init__()
        width = config.vision_config.hidden_size

        def bank(rank: int) -> TileLoRA:
            return TileLoRA(config.lora_count, rank, width, width, config.lora_dropout)

        self.query, self.key, self.value, self.out = (bank(config.attention_rank) for _ in range(4))
        self.mlp = bank(config.mlp_rank)
        self.groups: torch.Tensor | None = None
        self.read: torch.Tensor | None = None  # what the MLP's adapter reads
        attention = block.get_submodule(layout.attention)
        attention.register_forward_pre_hook(self._take_groups, with_kwargs=True)
        banks = {"q_proj": self.query, "k_proj": self.key, "v_proj": self.value, layout.out: self.out}
        for name, beside in banks.items():
            attention.get_submodule(name).register_forward_hook(partial(self._add, beside))
        norm = block.get_submodule(layout.mlp_norm)
        if config.mlp_lora_input == "normed":
            norm.register_forward_hook(self._keep_normed)
        else:
            norm.register_forward_pre_hook(self._keep_residual)
        block.get_submodule(layout.mlp_end).register_forward_hook(self._add_to_mlp)

    def _take_groups(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        self.groups = kwargs.pop("lora_groups", None)
        return args, kwargs

    def _add(
        self, bank: TileLoRA, _: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor
    ) -> torch.Tensor:
        return output if self.groups is None else bank.add(output, args[0], self.groups)

    def _keep_residual(self, _: nn.Module, args: tuple[torch.Tensor]) -> None:
        self.read = args[0]

    def _keep_normed(self, _: nn.Module, __: tuple, output: torch.Tensor) -> None:
        self.read = output

    def _add_to_mlp(self, _: nn.Module, __: tuple, output: torch.Tensor) -> torch.Tensor:
        read, self.read = self.read, None
        return output if self.groups is None else self.mlp.add(output, read, self.groups)


class HFVisionBackbone(VisionBackbone):
    """Views `[V, 3, side, side]` -> the patch features `[V, patches, width]` that the library's ViT gives as
    its last hidden state, without class token.

    Raises:
        ValueError: a ViT whose layout is not known.
    """

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__(config)
        self.layout = layout_of(config.vision_config)
        self.backbone = AutoModel.from_config(config.vision_config)
        blocks = self.backbone.get_submodule(self.layout.blocks) if self.has_lora else []
        self.lora = nn.ModuleList(BlockLoRA(config, block, self.layout) for block in blocks)

    def encode(self, pixel_values: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor:
        """One pass over one chunk, see `VisionBackbone`."""
        adapted = {} if groups is None else {"lora_groups": groups}
        # Checkpointing makes transformers ask for gradients at the patches: a frozen ViT has no use for them.
        learns = bool(adapted) or any(parameter.requires_grad for parameter in self.backbone.parameters())
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            output = self.backbone(pixel_values=pixel_values, **self.layout.options, **adapted)
        return output.last_hidden_state[:, self.layout.class_tokens :]


def layout_of(vision: PreTrainedConfig) -> Layout:
    """The layout of a ViT of transformers.

    Raises:
        ValueError: it is not known.
    """
    if vision.model_type not in LAYOUTS:
        raise ValueError(
            f"a vision encoder of type {vision.model_type!r} is not known: choose 'monkey_vision' or one of "
            f"{', '.join(LAYOUTS)}"
        )
    return LAYOUTS[vision.model_type]
