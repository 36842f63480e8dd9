"""The released code's way through the visual path and the loss, in plain functions on monkeylib's weights.

It is what the alternatives of the benchmarks run: written anew after what the released code does, step by
step, without its files. One tile position of all images goes through the ViT after the other, scores of the
attention are held in memory, LoRA is two linear layers beside each projection, position embeddings are
resampled in every pass, the resampler projects its queries for every image and also returns its attention
weights, rows are padded to 2,048 tokens, and logits are computed at every position.
"""

import math

import torch
from torch.nn import functional as F

from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.model.tile_lora import NO_LORA, TileLoRA
from monkeylib.model.vision import VisionBlock, interpolate_position_embedding

PADDED_LENGTH = 2048  # tokens


def encode_images(
    model: MonkeyForConditionalGeneration, pixel_values: torch.Tensor, lora_index: list[int]
) -> torch.Tensor:
    """Return the visual tokens of images of one grid.

    Args:
        model: whose weights are used.
        pixel_values: `[images * views, 3, side, side]`, the views of an image side by side.
        lora_index: the LoRA of each view of one image.

    Returns:
        `[images * views, queries, width]`, in the same order.
    """
    views = len(lora_index)
    tokens = []
    for position, lora in enumerate(lora_index):
        features = _encode_views(model, pixel_values[position::views], None if lora == NO_LORA else lora)
        tokens.append(_resample(model, features))

    # [images, views, queries, width] -> the views of an image side by side
    return torch.stack(tokens, dim=1).flatten(0, 1)


def _encode_views(
    model: MonkeyForConditionalGeneration, pixel_values: torch.Tensor, lora: int | None
) -> torch.Tensor:
    """Send one view of each image through the ViT: `[n, 3, side, side]` -> `[n, patches, width]`."""
    vision = model.vision
    patches = vision.patch_embedding(pixel_values)  # [n, width, rows, cols]
    rows, cols = patches.shape[-2:]
    x = patches.flatten(2).permute(0, 2, 1)

    x = vision.ln_pre(x + interpolate_position_embedding(vision.positions, rows, cols))
    x = x.permute(1, 0, 2)  # [patches, n, width]
    for block in vision.blocks:
        x = x + _attend(block, block.ln_1(x), lora)
        mlp = block.proj(F.gelu(block.fc(block.ln_2(x))))
        x = x + _add_lora(mlp, block.mlp_lora, x, lora)
    return x.permute(1, 0, 2)


def _attend(block: VisionBlock, x: torch.Tensor, lora: int | None) -> torch.Tensor:
    """Attend among the patches of each view, with all scores in memory: `[patches, n, width]`."""
    attention = block.attention
    patches, count, width = x.shape
    head_dim = width // attention.heads

    qkv = _add_lora(attention.qkv(x), attention.qkv_lora, x, lora)
    # The query, key and value of a head lie side by side. -> 3 x [n * heads, patches, head_dim]
    qkv = qkv.view(patches, count * attention.heads, 3 * head_dim).transpose(0, 1)
    q, k, v = qkv.split(head_dim, dim=-1)

    weights = torch.bmm(q / math.sqrt(head_dim), k.transpose(1, 2)).softmax(dim=-1)
    context = torch.bmm(weights, v).transpose(0, 1).reshape(patches, count, width)
    return _add_lora(attention.out(context), attention.out_lora, context, lora)


def _add_lora(y: torch.Tensor, adapters: TileLoRA | None, x: torch.Tensor, lora: int | None) -> torch.Tensor:
    """Add what two more linear layers give for the projection's input."""
    if lora is None or adapters is None:
        return y
    low_rank = F.linear(F.dropout(x, adapters.dropout, adapters.training), adapters.lora_A[lora])
    return y + F.linear(low_rank, adapters.lora_B[lora]) * adapters.scaling[lora]


def _resample(model: MonkeyForConditionalGeneration, features: torch.Tensor) -> torch.Tensor:
    """Resample one view of each image: `[n, patches, width of the ViT]` -> `[n, queries, width]`."""
    resampler = model.resampler
    side = math.isqrt(features.shape[1])
    kv = resampler.ln_kv(resampler.kv_proj(features)).permute(1, 0, 2)  # [patches, n, width]

    positions = resampler.positions.to(kv.dtype)
    patch_positions = interpolate_position_embedding(positions, side, side, resampler.query_grid)
    query = (resampler.ln_q(resampler.query) + positions)[:, None].repeat(1, len(features), 1)

    context, _ = F.multi_head_attention_forward(
        query,
        kv + patch_positions[:, None],
        kv,
        embed_dim_to_check=kv.shape[-1],
        num_heads=resampler.heads,
        in_proj_weight=resampler.qkv.weight,
        in_proj_bias=resampler.qkv.bias,
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=resampler.out.weight,
        out_proj_bias=resampler.out.bias,
        training=False,
        need_weights=True,
    )
    return resampler.proj(resampler.ln_post(context.permute(1, 0, 2)))


def loss_of_all_logits(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the loss of rows `[B, T, width]` with logits at every position, which are copied to be shifted.

    Args:
        hidden: what the language model gives.
        weight: of its output projection, `[vocabulary, width]`.
        labels: `[B, T]`, -100 where there is nothing to learn.
    """
    logits = F.linear(hidden, weight)
    shifted = logits[:, :-1].contiguous()
    return F.cross_entropy(shifted.flatten(0, 1), labels[:, 1:].flatten())
