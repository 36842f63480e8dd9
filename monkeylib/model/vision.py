"""The vision transformer: a frozen trunk shared by all views, with the adapter of its tile beside each
projection.

Pre-norm blocks as in the released ViT-bigG: query, key and value interleaved per head, exact GELU, no class
token, no final norm. Tiles go through with their adapters, global views without any.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from monkeylib.model.adapters import AdapterBank
from monkeylib.model.config import MonkeyConfig
from monkeylib.model.positions import TableCache
from monkeylib.model.views import ViewEncoder


class VisionAttention(nn.Module):
    """Self-attention over the patches of one view; no mask, no dropout."""

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__()
        width, self.heads = config.vision_config.width, config.vision_config.heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.qkv_adapter = _adapter(config, config.attention_rank, 3 * width)
        self.out_adapter = _adapter(config, config.attention_rank, width)

    def forward(self, x: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor:
        """`[views, patches, width]` -> same; `groups` as in `AdapterBank.add`, None without adapters."""
        qkv = self.qkv(x)
        if groups is not None:
            self.qkv_adapter.add(qkv, x, groups)
        views, patches, width = x.shape
        # Each head's q, k and v lie side by side: [heads, 3, head_dim].
        q, k, v = qkv.view(views, patches, self.heads, 3, width // self.heads).permute(3, 0, 2, 1, 4)
        context = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(views, patches, width)
        y = self.out(context)
        return y if groups is None else self.out_adapter.add(y, context, groups)


class VisionBlock(GradientCheckpointingLayer):
    """Attention and MLP with residuals. The MLP's adapter by-passes it; in the release, and by default, it
    reads the residual stream before its norm."""

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__()
        vision = config.vision_config
        self.ln_1 = nn.LayerNorm(vision.width, eps=vision.layer_norm_eps)
        self.attention = VisionAttention(config)
        self.ln_2 = nn.LayerNorm(vision.width, eps=vision.layer_norm_eps)
        self.fc = nn.Linear(vision.width, vision.mlp_width)
        self.proj = nn.Linear(vision.mlp_width, vision.width)
        self.mlp_adapter = _adapter(config, config.mlp_rank, vision.width)
        self.adapter_reads_normed = config.mlp_adapter_reads == "normed"

    def forward(self, x: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor:
        """`[views, patches, width]` -> same."""
        x = x + self.attention(self.ln_1(x), groups)
        normed = self.ln_2(x)
        y = self.proj(F.gelu(self.fc(normed)))
        if groups is not None:
            self.mlp_adapter.add(y, normed if self.adapter_reads_normed else x, groups)
        return x + y


class VisionTransformer(ViewEncoder):
    """Views `[V, 3, side, side]` -> patch features `[V, patches, width]`."""

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__(config)
        vision = config.vision_config
        self.patch_embedding = nn.Conv2d(3, vision.width, vision.patch_size, vision.patch_size, bias=False)
        self.positions = nn.Parameter(torch.empty(vision.position_grid**2, vision.width))
        self.positions_for = TableCache()
        self.ln_pre = nn.LayerNorm(vision.width, eps=vision.layer_norm_eps)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(vision.layers))
        nn.init.trunc_normal_(self.positions, std=0.02)

    def encode(self, pixel_values: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor:
        """One pass over one chunk, see `ViewEncoder`."""
        rows, cols = (side // self.patch_size for side in pixel_values.shape[-2:])
        pixel_values = pixel_values.to(self.patch_embedding.weight.dtype)
        x = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        x = self.ln_pre(x + self.positions_for(self.positions, rows, cols))
        for block in self.blocks:
            x = block(x, groups)
        return x


def _adapter(config: MonkeyConfig, rank: int, d_out: int) -> AdapterBank | None:
    """The stacked adapters beside one projection; None in the modes without adapters."""
    if not config.adapters:
        return None
    return AdapterBank(config.adapters, rank, config.vision_config.width, d_out, config.adapter_dropout)
