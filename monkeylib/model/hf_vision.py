"""ViT of transformers (CLIP, DINOv2, SigLIP) as the vision backbone, with the same per-tile LoRA.

The code of transformers runs unchanged. Forward hooks on its projections add the LoRA's part.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig

from monkeylib.model.config import MonkeyConfig
from monkeylib.model.tile_lora import TileLoRA
from monkeylib.model.vision import VisionBackbone


@dataclass(frozen=True)
class Layout:
    """Names of the modules inside a ViT of transformers.

    Fields:
        blocks: list of the transformer blocks.
        attention: attention of a block.
        out: output projection of the attention; the others are `q_proj`, `k_proj` and `v_proj`.
        mlp_norm: norm before the MLP.
        mlp_end: module whose output is the MLP's part of the residual sum.
        class_tokens: how many tokens come before the patches.
        options: arguments that make the ViT interpolate its position embedding.
    """

    blocks: str
    attention: str
    out: str
    mlp_norm: str
    mlp_end: str
    class_tokens: int
    options: dict[str, Any] = field(default_factory=dict)


# `model_type` in transformers -> layout
LAYOUTS = {
    "clip_vision_model": Layout(
        blocks="encoder.layers",
        attention="self_attn",
        out="out_proj",
        mlp_norm="layer_norm2",
        mlp_end="mlp",
        class_tokens=1,
        options={"interpolate_pos_encoding": True},
    ),
    "dinov2": Layout(
        blocks="encoder.layer",
        attention="attention",
        out="o_proj",
        mlp_norm="norm2",
        mlp_end="layer_scale2",
        class_tokens=1,
    ),
    "siglip_vision_model": Layout(
        blocks="encoder.layers",
        attention="self_attn",
        out="out_proj",
        mlp_norm="layer_norm2",
        mlp_end="mlp",
        class_tokens=0,
        options={"interpolate_pos_encoding": True},
    ),
}


def layout_of(vision: PreTrainedConfig) -> Layout:
    """Return the layout of a ViT of transformers.

    Raises:
        ValueError: its type is not in `LAYOUTS`.
    """
    if vision.model_type not in LAYOUTS:
        raise ValueError(
            f"a vision encoder of type {vision.model_type!r} is not known: choose 'monkey_vision' or one of "
            f"{', '.join(LAYOUTS)}"
        )
    return LAYOUTS[vision.model_type]


class HFVisionBackbone(VisionBackbone):
    """Views `[V, 3, side, side]` -> last hidden state of a ViT of transformers `[V, patches, width]`.

    Class tokens are left out.

    Raises:
        ValueError: the ViT is of a type that is not in `LAYOUTS`.
    """

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__(config)
        self.layout = layout_of(config.vision_config)
        self.backbone = AutoModel.from_config(config.vision_config)

        # Without LoRA the hooks would have nothing to add, so none are registered.
        blocks = self.backbone.get_submodule(self.layout.blocks) if config.lora_count else []
        self.lora = nn.ModuleList(BlockLoRA(config, block, self.layout) for block in blocks)

    def encode(self, pixel_values: torch.Tensor, lora_groups: torch.Tensor | None) -> torch.Tensor:
        """Encode one chunk of views, see `VisionBackbone.encode`."""
        # transformers hands unknown keywords down to the blocks; `BlockLoRA` takes this one out there.
        keywords = {} if lora_groups is None else {"lora_groups": lora_groups}

        # Checkpointing makes transformers ask for gradients at the patches: a frozen ViT has no use for them.
        learns = lora_groups is not None or any(p.requires_grad for p in self.backbone.parameters())
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            # [v, 3, side, side] -> [v, class tokens + patches, width]
            output = self.backbone(pixel_values=pixel_values, **self.layout.options, **keywords)

        # Class tokens come first. -> [v, patches, width]
        return output.last_hidden_state[:, self.layout.class_tokens :]


class BlockLoRA(nn.Module):
    """LoRA of one block: beside the query, key, value and output projections, and beside the MLP.

    As in `model.vision`, the MLP's LoRA bypasses the MLP (and, in DINOv2, its layer scale), and
    `config.mlp_lora_input` says what it reads. Query, key and value have a LoRA each, where the released ViT
    fuses the three projections into one. Class tokens go through LoRA too.

    The block hands its keyword `lora_groups` on to its attention, where it is taken out again. A block that
    gradient checkpointing runs a second time then meets the same LoRAs.
    """

    def __init__(self, config: MonkeyConfig, block: nn.Module, layout: Layout) -> None:
        super().__init__()
        width = config.vision_config.hidden_size

        # Every projection maps width to width: transformers fuses none of them. Rank 0 means no LoRA there.
        def build_lora(rank: int) -> TileLoRA | None:
            if not rank:
                return None
            return TileLoRA(config.lora_count, rank, width, width, config.lora_dropout)

        self.query = build_lora(config.attention_rank)
        self.key = build_lora(config.attention_rank)
        self.value = build_lora(config.attention_rank)
        self.out = build_lora(config.attention_rank)
        self.mlp = build_lora(config.mlp_rank)

        # Between the hooks of one forward pass: the LoRAs of the chunk, and what the MLP's LoRA reads.
        self.lora_groups: torch.Tensor | None = None
        self.mlp_lora_input: torch.Tensor | None = None

        # The attention's hook runs before those of its projections.
        attention = block.get_submodule(layout.attention)
        attention.register_forward_pre_hook(self._take_lora_groups, with_kwargs=True)
        beside = {"q_proj": self.query, "k_proj": self.key, "v_proj": self.value, layout.out: self.out}
        for name, lora in beside.items():
            if lora is None:
                continue
            attention.get_submodule(name).register_forward_hook(partial(self._add_to_projection, lora))

        if self.mlp is None:
            return

        # The norm before the MLP shows what the MLP's LoRA reads, the end of the MLP where it is added.
        mlp_norm = block.get_submodule(layout.mlp_norm)
        if config.mlp_lora_input == "normed":
            mlp_norm.register_forward_hook(self._keep_normed)
        else:
            mlp_norm.register_forward_pre_hook(self._keep_residual)

        block.get_submodule(layout.mlp_end).register_forward_hook(self._add_to_mlp)

    def _take_lora_groups(
        self, _: nn.Module, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]]:
        self.lora_groups = kwargs.pop("lora_groups", None)
        return args, kwargs

    def _add_to_projection(
        self, lora: TileLoRA, _: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor
    ) -> torch.Tensor:
        if self.lora_groups is None:
            return output
        # args[0] is the input of the projection, [v, class tokens + patches, width].
        return lora.add(output, args[0], self.lora_groups)

    def _keep_residual(self, _: nn.Module, args: tuple[torch.Tensor]) -> None:
        self.mlp_lora_input = args[0]

    def _keep_normed(self, _: nn.Module, __: tuple, output: torch.Tensor) -> None:
        self.mlp_lora_input = output

    def _add_to_mlp(self, _: nn.Module, __: tuple, output: torch.Tensor) -> torch.Tensor:
        # Let go of the activation, which would otherwise live until the next forward pass.
        lora_input, self.mlp_lora_input = self.mlp_lora_input, None
        if self.lora_groups is None:
            return output
        return self.mlp.add(output, lora_input, self.lora_groups)
