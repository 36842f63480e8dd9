"""The vision transformer: a frozen backbone shared by all views, with the adapter of its tile beside each
projection.

Pre-norm blocks as in the released ViT-bigG: query, key and value interleaved per head, exact GELU, no class
token, no final norm. Tiles go through with their adapters, global views without any.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from monkeylib.model.config import MonkeyConfig, mlp_width
from monkeylib.model.lora import TileLoRA, group_views


def sincos_position_embedding(width: int, grid: int) -> torch.Tensor:
    """Fixed 2-D sine-cosine positions `[grid * grid, width]` (MAE; used by the released resampler).

    The first half of the width encodes x, the second y; within each half sines come before cosines, base
    10000.
    """
    if width % 4:
        raise ValueError(f"2-D sine-cosine positions need a width that is a multiple of 4, got {width}")
    rates = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * rates
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    x = axis.repeat(grid, 1)
    y = axis.repeat_interleave(grid, dim=0)
    return torch.cat([x, y], dim=1).float()


def interpolate_position_embedding(table: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    """Resample a square table `[n * n, width]` to `[rows * cols, width]`: bicubic in fp32, then cast back."""
    side = math.isqrt(table.shape[0])
    if (rows, cols) == (side, side):
        return table
    square = table.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=(rows, cols), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(rows * cols, -1).to(table.dtype)


class PositionEmbeddingCache(nn.Module):
    """Interpolates a table once per grid, and again when the table has changed or is being trained."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[tuple[int, int], tuple[tuple, torch.Tensor]] = {}

    def forward(self, table: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
        """`[n * n, width]` -> `[rows * cols, width]`."""
        if table.requires_grad and torch.is_grad_enabled():
            return interpolate_position_embedding(table, rows, cols)
        state = (table.data_ptr(), table._version, table.dtype, table.device)
        kept = self._kept.get((rows, cols))
        if kept is None or kept[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                kept = (state, interpolate_position_embedding(table, rows, cols).clone())
            self._kept[rows, cols] = kept
        return kept[1]


# Bytes of the widest activation of a chunk on a CPU; larger chunks only cost page faults.
CPU_CHUNK_BYTES = 16 * 2**20


class VisionBackbone(nn.Module, ABC):
    """Views `[V, 3, side, side]` -> patch features `[V, patches, width]`; a subclass encodes a chunk."""

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__()
        vision = config.vision_config
        self.patch_size, self.mlp_width = vision.patch_size, mlp_width(vision)
        self.has_lora = config.lora_count > 0

    def forward(self, pixel_values: torch.Tensor, lora_index: torch.Tensor | None = None) -> torch.Tensor:
        """Encode views, each with its own adapter.

        Args:
            pixel_values: `[V, 3, side, side]`, normalised.
            lora_index: `[V]`, the adapter of each view, -1 for none (the global view). None means none
                for all.

        Raises:
            ValueError: views that do not divide into patches.
        """
        *_, height, width = pixel_values.shape
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"a view of {height}x{width} pixels does not divide into patches of {self.patch_size} "
                f"pixels: use a tile size that is a multiple of {self.patch_size}"
            )
        index = [-1] * len(pixel_values) if lora_index is None else lora_index.tolist()
        if not self.has_lora:
            index = [-1] * len(index)
        # Views of one tile position come to lie together. Those without adapter go first and never share a
        # pass with adapted ones: they cost no LoRA arithmetic and, while the backbone is frozen, no gradient.
        order = sorted(range(len(index)), key=index.__getitem__)
        plain = index.count(-1)
        step = self.chunk_views(pixel_values)
        bounds = [*range(0, plain, step), *range(plain, len(index), step), len(index)]
        if order != list(range(len(order))):
            pixel_values = pixel_values[order]
        features = [
            self.encode(pixel_values[start:end], _groups([index[i] for i in order[start:end]], pixel_values))
            for start, end in zip(bounds, bounds[1:], strict=False)
        ]
        joined = features[0] if len(features) == 1 else torch.cat(features)
        if order == list(range(len(order))):
            return joined
        inverse = torch.empty(len(order), dtype=torch.long)
        inverse[order] = torch.arange(len(order))
        return joined[inverse.to(joined.device)]

    @abstractmethod
    def encode(self, pixel_values: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor:
        """One pass over one chunk `[v, 3, side, side]`; `groups` as in `TileLoRA.add`, None without
        adapters."""

    def chunk_views(self, pixel_values: torch.Tensor) -> int:
        """How many views go through at once: all on an accelerator, as many as suit the cache on a CPU."""
        if pixel_values.device.type != "cpu":
            return len(pixel_values)
        patches = pixel_values.shape[-2] * pixel_values.shape[-1] // self.patch_size**2
        return max(1, CPU_CHUNK_BYTES // (4 * patches * self.mlp_width))


def _groups(adapters: list[int], like: torch.Tensor) -> torch.Tensor | None:
    """The adapters of a chunk's groups; its views have all an adapter or none has (-1)."""
    return None if adapters[0] < 0 else torch.tensor(group_views(adapters), device=like.device)


class VisionAttention(nn.Module):
    """Self-attention over the patches of one view; no mask, no dropout."""

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__()
        width, self.heads = config.vision_config.width, config.vision_config.heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.qkv_lora = _adapter(config, config.attention_rank, 3 * width)
        self.out_lora = _adapter(config, config.attention_rank, width)

    def forward(self, x: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor:
        """`[views, patches, width]` -> same; `groups` as in `TileLoRA.add`, None without adapters."""
        qkv = self.qkv(x)
        if groups is not None:
            self.qkv_lora.add(qkv, x, groups)
        views, patches, width = x.shape
        # Each head's q, k and v lie side by side: [heads, 3, head_dim].
        q, k, v = qkv.view(views, patches, self.heads, 3, width // self.heads).permute(3, 0, 2, 1, 4)
        context = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(views, patches, width)
        y = self.out(context)
        return y if groups is None else self.out_lora.add(y, context, groups)


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
        self.mlp_lora = _adapter(config, config.mlp_rank, vision.width)
        self.mlp_lora_reads_norm = config.mlp_lora_input == "normed"

    def forward(self, x: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor:
        """`[views, patches, width]` -> same."""
        x = x + self.attention(self.ln_1(x), groups)
        normed = self.ln_2(x)
        y = self.proj(F.gelu(self.fc(normed)))
        if groups is not None:
            self.mlp_lora.add(y, normed if self.mlp_lora_reads_norm else x, groups)
        return x + y


class VisionTransformer(VisionBackbone):
    """Views `[V, 3, side, side]` -> patch features `[V, patches, width]`."""

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__(config)
        vision = config.vision_config
        self.patch_embedding = nn.Conv2d(3, vision.width, vision.patch_size, vision.patch_size, bias=False)
        self.positions = nn.Parameter(torch.empty(vision.position_grid**2, vision.width))
        self.positions_for = PositionEmbeddingCache()
        self.ln_pre = nn.LayerNorm(vision.width, eps=vision.layer_norm_eps)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(vision.layers))
        nn.init.trunc_normal_(self.positions, std=0.02)

    def encode(self, pixel_values: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor:
        """One pass over one chunk, see `VisionBackbone`."""
        rows, cols = (side // self.patch_size for side in pixel_values.shape[-2:])
        pixel_values = pixel_values.to(self.patch_embedding.weight.dtype)
        x = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        x = self.ln_pre(x + self.positions_for(self.positions, rows, cols))
        for block in self.blocks:
            x = block(x, groups)
        return x


def _adapter(config: MonkeyConfig, rank: int, d_out: int) -> TileLoRA | None:
    """The stacked adapters beside one projection; None in the modes without adapters."""
    if not config.lora_count:
        return None
    return TileLoRA(config.lora_count, rank, config.vision_config.width, d_out, config.lora_dropout)
