"""Vision transformer: one frozen backbone for all views, with a LoRA per tile position beside it.

A view is a tile of an image, or its global view. The blocks are those of the released ViT-bigG: norms come
first, query, key and value are interleaved per head, the GELU is exact, and there is neither a class token
nor a final norm. Which view meets which LoRA is decided in `monkeylib.model.tile_lora`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from monkeylib.model import cpu
from monkeylib.model.config import MonkeyConfig, mlp_width
from monkeylib.model.normalisation import normalise_bytes
from monkeylib.model.tile_lora import NO_LORA, TileLoRA, plan_chunks

# Bytes of a chunk's widest activation on a CPU. A larger one takes as long, and more memory: for an image at
# width 512 and 4 layers, 99 instead of 55 MB without gradients with twice as many bytes.
CPU_CHUNK_BYTES = 8 * 2**20

# The same on an accelerator, which multiplies the views of a whole batch as one: 64 views of the paper, or
# twelve images. More would add memory and nothing else. Counted, not measured.
ACCELERATOR_CHUNK_BYTES = 2 * 2**30


class VisionBackbone(nn.Module, ABC):
    """Encode views, each with the LoRA of its tile position.

    A subclass says how one chunk of views is encoded: `VisionTransformer` below, or `HFVisionBackbone` for a
    ViT of transformers.

    Attributes:
        chunk_bytes: bytes of the widest activation of the views that go through at once; None for what suits
            the device.
    """

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__()
        self.patch_size = config.vision_config.patch_size
        self.mlp_width = mlp_width(config.vision_config)
        self.vision_type = config.vision_config.model_type
        self.chunk_bytes: int | None = None

    def forward(
        self,
        pixel_values: torch.Tensor,
        lora_index: list[int] | None = None,
        reduce: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Encode views.

        Args:
            pixel_values: `[V, 3, side, side]`, normalised, or bytes, which are normalised here, chunk by
                chunk on the device.
            lora_index: the LoRA of each view, `NO_LORA` for none; without the list, no view has one.
            reduce: is called on the features `[v, patches, width]` of each chunk before the next one is
                encoded, and returns what is kept of them, `[v, ...]`. A resampler keeps a small part.

        Returns:
            Patch features `[V, patches, width]`, or what `reduce` has kept of them, `[V, ...]`.

        Raises:
            ValueError: the views do not divide into patches.
        """
        self._check_size(pixel_values)
        views = len(pixel_values)
        if lora_index is None:
            lora_index = [NO_LORA] * views

        reduce = reduce or nn.Identity()
        # Views that meet the same LoRA go side by side.
        chunks = plan_chunks(lora_index, self.chunk_size(pixel_values))
        kept = []
        for chunk in chunks:
            groups = chunk.lora_groups
            lora_groups = None if groups is None else torch.tensor(groups, device=pixel_values.device)
            pixels = _take(pixel_values, chunk.views)
            if pixels.dtype == torch.uint8:
                pixels = normalise_bytes(pixels, self.vision_type)
            # Under no name, the features are gone before the next chunk is encoded.
            kept.append(reduce(self.encode(pixels, lora_groups)))

        joined = kept[0] if len(kept) == 1 else torch.cat(kept)

        # Back to the order of the batch.
        order = [view for chunk in chunks for view in chunk.views]
        inverse = sorted(range(views), key=order.__getitem__)
        return _take(joined, inverse)

    @abstractmethod
    def encode(self, pixel_values: torch.Tensor, lora_groups: torch.Tensor | None) -> torch.Tensor:
        """Encode one chunk of views.

        Args:
            pixel_values: `[v, 3, side, side]`, with the views of one LoRA side by side.
            lora_groups: `[groups]` LoRA numbers as in `tile_lora.Chunk`, None without LoRA.

        Returns:
            `[v, patches, width]`.
        """

    def chunk_size(self, pixel_values: torch.Tensor) -> int:
        """Return how many views go through at once: up to a budget, on a CPU what its cache holds."""
        budget = self.chunk_bytes
        if budget is None:
            is_cpu = pixel_values.device.type == "cpu"
            budget = CPU_CHUNK_BYTES if is_cpu else ACCELERATOR_CHUNK_BYTES

        height, width = pixel_values.shape[-2:]
        patches = height * width // self.patch_size**2
        # The inner layer of the MLP is the widest activation: [patches, mlp_width], as large as in fp32.
        bytes_per_view = 4 * patches * self.mlp_width
        return max(1, budget // bytes_per_view)

    def _check_size(self, pixel_values: torch.Tensor) -> None:
        height, width = pixel_values.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"a view of {height}x{width} pixels does not divide into patches of {self.patch_size} "
                f"pixels: use a tile size that is a multiple of {self.patch_size}"
            )


def _take(rows: torch.Tensor, numbers: list[int]) -> torch.Tensor:
    """Return rows of a tensor by their numbers; those that follow one another are a slice, not a copy."""
    start = numbers[0]
    if numbers == list(range(start, start + len(numbers))):
        return rows[start : start + len(numbers)]
    return rows[torch.tensor(numbers, device=rows.device)]


class VisionTransformer(VisionBackbone):
    """ViT as in the released checkpoint: patch embedding, learned position embedding, blocks.

    Args:
        config: sizes are those of its `vision_config`.
    """

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__(config)
        vision = config.vision_config

        self.patch_embedding = nn.Conv2d(3, vision.width, vision.patch_size, vision.patch_size, bias=False)
        self.positions = nn.Parameter(torch.empty(vision.position_grid**2, vision.width))
        self.position_cache = PositionEmbeddingCache()
        self.ln_pre = nn.LayerNorm(vision.width, eps=vision.layer_norm_eps)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(vision.layers))

        nn.init.trunc_normal_(self.positions, std=0.02)

    def encode(self, pixel_values: torch.Tensor, lora_groups: torch.Tensor | None) -> torch.Tensor:
        """Encode one chunk of views, see `VisionBackbone.encode`."""
        height, width = pixel_values.shape[-2:]
        rows, cols = height // self.patch_size, width // self.patch_size

        # [v, 3, height, width] -> [v, patches, width of the ViT]
        pixel_values = pixel_values.to(self.patch_embedding.weight.dtype)
        x = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)

        x = self.ln_pre(x + self.position_cache(self.positions, rows, cols))
        for block in self.blocks:
            x = block(x, lora_groups)
        return x


class VisionBlock(GradientCheckpointingLayer):
    """Transformer block: `x + attention(norm(x))`, then `x + MLP(norm(x)) + LoRA`.

    One LoRA bypasses the whole MLP. Paper section 3.1 puts LoRA "in the MLP"; the released code, and the
    default here, feeds it the residual stream before its norm. `config.mlp_lora_input` chooses.
    """

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__()
        vision = config.vision_config

        self.ln_1 = nn.LayerNorm(vision.width, eps=vision.layer_norm_eps)
        self.attention = VisionAttention(config)
        self.ln_2 = nn.LayerNorm(vision.width, eps=vision.layer_norm_eps)
        self.fc = nn.Linear(vision.width, vision.mlp_width)
        self.proj = nn.Linear(vision.mlp_width, vision.width)

        self.mlp_lora = _build_lora(config, config.mlp_rank, vision.width)
        self.mlp_lora_reads_norm = config.mlp_lora_input == "normed"

    def forward(self, x: torch.Tensor, lora_groups: torch.Tensor | None) -> torch.Tensor:
        """`[views, patches, width]` -> the same shape; `lora_groups` as in `VisionBackbone.encode`."""
        x = x + self.attention(self.ln_1(x), lora_groups)

        normed = self.ln_2(x)
        y = self.proj(self._gelu(self.fc(normed)))
        if lora_groups is not None and self.mlp_lora is not None:
            lora_input = normed if self.mlp_lora_reads_norm else x
            self.mlp_lora.add(y, lora_input, lora_groups)

        return x + y

    def _gelu(self, x: torch.Tensor) -> torch.Tensor:
        """Return the exact GELU; in place where nobody needs its input, for a third less memory."""
        is_input_kept = torch.is_grad_enabled() or torch.compiler.is_compiling() or self.fc._forward_hooks
        return F.gelu(x) if is_input_kept else torch.ops.aten.gelu_(x)


class VisionAttention(nn.Module):
    """Self-attention over the patches of one view, with LoRA beside both projections; no mask, no dropout."""

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__()
        width = config.vision_config.width
        self.heads = config.vision_config.heads

        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.qkv_lora = _build_lora(config, config.attention_rank, 3 * width)
        self.out_lora = _build_lora(config, config.attention_rank, width)

    def forward(self, x: torch.Tensor, lora_groups: torch.Tensor | None) -> torch.Tensor:
        """`[views, patches, width]` -> the same shape; `lora_groups` as in `VisionBackbone.encode`."""
        views, patches, width = x.shape

        qkv = self.qkv(x)
        if lora_groups is not None and self.qkv_lora is not None:
            self.qkv_lora.add(qkv, x, lora_groups)

        # The query, key and value of a head lie side by side. -> 3 x [views, heads, patches, head_dim]
        qkv = qkv.view(views, patches, self.heads, 3, width // self.heads)
        q, k, v = qkv.permute(3, 0, 2, 1, 4)
        context = attend(q, k, v, self.training)
        context = context.transpose(1, 2).reshape(views, patches, width)

        y = self.out(context)
        if lora_groups is not None and self.out_lora is not None:
            self.out_lora.add(y, context, lora_groups)
        return y


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, training: bool = False) -> torch.Tensor:
    """Return `softmax(q k^T / sqrt(head_dim)) v`, without a mask; the resampler uses it too.

    It is torch's fused kernel, except outside of training for bfloat16 on a CPU that is faster by plain
    products (`cpu.prefers_plain_attention`).

    Args:
        q: `[V, heads, queries, head_dim]`.
        k, v: `[V, heads, patches, head_dim]`.
        training: always take the fused kernel, whose backward pass needs less memory. Checkpointing runs a
            part of training without gradients.

    Returns:
        `[V, heads, queries, head_dim]`.
    """
    is_training = training or torch.is_grad_enabled()
    is_on_cpu = q.device.type == "cpu" and not isinstance(q, FakeTensor)
    may_be_plain = is_on_cpu and q.dtype == torch.bfloat16 and not is_training
    if not may_be_plain or not cpu.prefers_plain_attention():
        return F.scaled_dot_product_attention(q, k, v)

    # View by view: the scores of one fit the cache, [heads, queries, patches].
    views = []
    for query, key, value in zip(q, k, v, strict=True):
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        views.append(scores.softmax(dim=-1) @ value)
    return torch.stack(views)


def _build_lora(config: MonkeyConfig, rank: int, d_out: int) -> TileLoRA | None:
    """Build the LoRAs beside one projection; None in the modes without LoRA, or where the rank is 0."""
    if not config.lora_count or not rank:
        return None
    return TileLoRA(config.lora_count, rank, config.vision_config.width, d_out, config.lora_dropout)


class PositionEmbeddingCache(nn.Module):
    """Resample a position embedding to the patch grid of a view, on a CPU once per grid.

    At the size of the paper, that takes a CPU core 99 ms. The result is computed again when a value of the
    embedding has changed, whatever has written it, and always while it is trained. The resampler uses this
    module too.
    """

    def __init__(self) -> None:
        super().__init__()
        # (rows, cols) -> a copy of the embedding that was resampled, and the result
        self._resampled: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def forward(
        self, embedding: torch.Tensor, rows: int, cols: int, grid: tuple[int, int] | None = None
    ) -> torch.Tensor:
        """Resample `embedding` as `interpolate_position_embedding` does."""
        # A graph that is exported or compiled computes it anew; so do accelerators, which are fast at it and
        # would have to be waited for to compare values.
        is_trained = embedding.requires_grad and torch.is_grad_enabled()
        if torch.compiler.is_compiling() or is_trained or embedding.device.type != "cpu":
            return interpolate_position_embedding(embedding, rows, cols, grid)

        source, resampled = self._resampled.get((rows, cols), (None, None))
        is_same = source is not None and source.dtype == embedding.dtype and source.shape == embedding.shape
        # Fake tensors, with which memory is counted, have no values.
        if is_same and not isinstance(embedding, FakeTensor):
            is_same = torch.equal(source, embedding)
        if not is_same:
            # A tensor made in inference mode could not be used in training later.
            with torch.inference_mode(False), torch.no_grad():
                source = embedding.detach().clone()
                resampled = interpolate_position_embedding(source, rows, cols, grid)
            self._resampled[rows, cols] = (source, resampled)

        return resampled


def interpolate_position_embedding(
    embedding: torch.Tensor, rows: int, cols: int, grid: tuple[int, int] | None = None
) -> torch.Tensor:
    """Resample the position embedding of a patch grid to `rows x cols` patches.

    Bicubic in fp32 as in the released code, then cast back.

    Args:
        embedding: `[n, width]`.
        rows, cols: patches down and across.
        grid: rows and columns of the embedding itself; a square by default.

    Returns:
        `[rows * cols, width]`; the embedding itself where its grid is that one already.
    """
    side = math.isqrt(embedding.shape[0])
    own_rows, own_cols = grid or (side, side)
    if (rows, cols) == (own_rows, own_cols):
        return embedding

    # Interpolation takes images: [1, width, own_rows, own_cols].
    image = embedding.float().reshape(1, own_rows, own_cols, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(image, size=(rows, cols), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(rows * cols, -1).to(embedding.dtype)
