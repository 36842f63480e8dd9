"""The shared resampler: one cross-attention layer that turns a view's patches into a fixed number of visual
tokens.

Qwen-VL's position-aware adapter as in the released code: positions are added to queries and keys, never to
values; a layer norm and a projection follow.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from monkeylib.model.config import MonkeyConfig
from monkeylib.model.vision import PositionEmbeddingCache, sincos_position_embedding


class Resampler(nn.Module):
    """Patch features `[V, patches, vision width]` -> visual tokens `[V, queries, width]`, the same weights
    for all views."""

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__()
        queries, self.heads = config.resampler_config.queries, config.resampler_config.heads
        width, eps = config.text_config.hidden_size, config.vision_config.layer_norm_eps
        if width % self.heads:
            raise ValueError(f"the resampler's width {width} does not divide by its {self.heads} heads")
        self.query = nn.Parameter(torch.empty(queries, width))
        # A buffer, since these positions are fixed; the release's fine-tuning trains them by accident.
        self.register_buffer(
            "positions", sincos_position_embedding(width, math.isqrt(queries)).to(self.query.dtype)
        )
        self.positions_for = PositionEmbeddingCache()
        self.kv_proj = nn.Linear(config.vision_config.hidden_size, width, bias=False)
        self.ln_q = nn.LayerNorm(width, eps=eps)
        self.ln_kv = nn.LayerNorm(width, eps=eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ln_post = nn.LayerNorm(width, eps=eps)
        self.proj = nn.Linear(width, width, bias=False)
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(
        self,
        features: torch.Tensor,
        patch_grid: tuple[int, int] | None = None,
        return_attention: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Resample the patches of each view.

        Args:
            features: `[V, patches, vision width]`.
            patch_grid: rows and columns of patches in a view; a square when not given.
            return_attention: also return the attention weights `[V, heads, queries, patches]`.
        """
        rows, cols = patch_grid or (math.isqrt(features.shape[1]),) * 2
        if rows * cols != features.shape[1]:
            raise ValueError(
                f"{features.shape[1]} patches do not form a {rows}x{cols} grid: pass patch_grid=(rows, cols)"
            )
        kv = self.ln_kv(self.kv_proj(features))
        w_q, w_k, w_v = self.qkv.weight.chunk(3)
        b_q, b_k, b_v = self.qkv.bias.chunk(3)
        # Loaded in lower precision, a buffer keeps that of the file.
        positions = self.positions_for(self.positions, rows, cols).to(kv.dtype)
        q = F.linear(self.ln_q(self.query) + self.positions.to(kv.dtype), w_q, b_q)
        k = F.linear(kv + positions, w_k, b_k)
        v = F.linear(kv, w_v, b_v)
        q = self._split_heads(q[None]).expand(len(kv), -1, -1, -1)
        k, v = self._split_heads(k), self._split_heads(v)
        context = F.scaled_dot_product_attention(q, k, v)
        tokens = self.proj(self.ln_post(self.out(context.transpose(1, 2).flatten(2))))
        if not return_attention:
            return tokens
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
        return tokens, weights

    def _split_heads(self, x: torch.Tensor) -> torch.Tensor:
        """`[n, tokens, width]` -> `[n, heads, tokens, head_dim]`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Projector(nn.Module):
    """Patch features `[V, patches, vision width]` -> visual tokens `[V, patches, width]`, by two linear
    layers with an activation between them."""

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__()
        width = config.text_config.hidden_size
        self.linear_1 = nn.Linear(config.vision_config.hidden_size, width)
        self.act = ACT2FN[config.resampler_config.hidden_act]
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: torch.Tensor, patch_grid: tuple[int, int] | None = None) -> torch.Tensor:
        """Project each patch; how the patches lie (`patch_grid`) makes no difference."""
        return self.linear_2(self.act(self.linear_1(features)))
