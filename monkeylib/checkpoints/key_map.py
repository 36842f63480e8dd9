"""Where each tensor of a released Monkey or Qwen-VL checkpoint lies in our model.

The release keeps one module per adapter, ours are stacked by tile position. Its Qwen-7B is the library's
Qwen2: `w2` is the gate, `w1` the up projection, and `c_attn` holds query, key and value. Reading and writing
are both walks over `pieces`, so that what is read can be written back bit for bit.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch

from monkeylib.model import MonkeyConfig


class KeyMapEntry(NamedTuple):
    """A part of a released tensor and its place in ours.

    Fields:
        released: key of the release.
        ours: name in our state dict.
        rows: first and last (exclusive) row of the released tensor; None for all of it.
        tile: index in our tensor, which is stacked by tile position; None for all of it.
        transposed: the release keeps the transpose.
        shape: of the whole released tensor.
    """

    released: str
    ours: str
    shape: tuple[int, ...]
    rows: tuple[int, int] | None = None
    tile: int | None = None
    transposed: bool = False


def pieces(config: MonkeyConfig) -> list[KeyMapEntry]:
    """Every tensor of the released checkpoint of this configuration: 2,581 keys for Monkey at 896x896."""
    return [*_vision(config), *_resampler(config), *_language(config)]


def by_key(parts: Iterable[KeyMapEntry]) -> dict[str, list[KeyMapEntry]]:
    """The pieces of each released key, in the order of its rows."""
    grouped: dict[str, list[KeyMapEntry]] = {}
    for piece in parts:
        grouped.setdefault(piece.released, []).append(piece)
    return grouped


def _vision(config: MonkeyConfig) -> Iterator[KeyMapEntry]:
    vision, tower = config.vision_config, "transformer.visual."
    width, patch = vision.width, vision.patch_size
    yield KeyMapEntry(f"{tower}positional_embedding", "vision.positions", (vision.position_grid**2, width))
    yield KeyMapEntry(f"{tower}conv1.weight", "vision.patch_embedding.weight", (width, 3, patch, patch))
    yield from _norm(f"{tower}ln_pre", "vision.ln_pre", width)
    for i in range(vision.layers):
        block, ours = f"{tower}transformer.resblocks.{i}", f"vision.blocks.{i}"
        yield from _norm(f"{block}.ln_1", f"{ours}.ln_1", width)
        yield from _linear(f"{block}.attn.in_proj", f"{ours}.attention.qkv", 3 * width, width)
        yield from _linear(f"{block}.attn.out_proj", f"{ours}.attention.out", width, width)
        yield from _norm(f"{block}.ln_2", f"{ours}.ln_2", width)
        yield from _linear(f"{block}.mlp.c_fc", f"{ours}.fc", vision.mlp_width, width)
        yield from _linear(f"{block}.mlp.c_proj", f"{ours}.proj", width, vision.mlp_width)
        for bank in lora_specs(config):
            for tile in range(config.lora_count):
                yield from _adapter(f"{block}.{bank.released}.{tile}", f"{ours}.{bank.ours}", bank, tile)


class LoRASpec(NamedTuple):
    """The adapters beside one projection of a block: their released and our name, rank and sizes."""

    released: str
    ours: str
    rank: int
    d_in: int
    d_out: int


def lora_specs(config: MonkeyConfig) -> list[LoRASpec]:
    """The three adapters of a block."""
    width, rank = config.vision_config.width, config.attention_rank
    return [
        LoRASpec("attn.in_proj_lora", "attention.qkv_lora", rank, width, 3 * width),
        LoRASpec("attn.out_proj_lora", "attention.out_lora", rank, width, width),
        LoRASpec("mlp_lora", "mlp_lora", config.mlp_rank, width, width),
    ]


def _adapter(released: str, ours: str, bank: LoRASpec, tile: int) -> Iterator[KeyMapEntry]:
    yield KeyMapEntry(f"{released}.lora_scale", f"{ours}.scaling", (1,), tile=tile)
    yield KeyMapEntry(f"{released}.lora_a.weight", f"{ours}.lora_A", (bank.rank, bank.d_in), tile=tile)
    yield KeyMapEntry(f"{released}.lora_b.weight", f"{ours}.lora_B", (bank.d_out, bank.rank), tile=tile)


def _resampler(config: MonkeyConfig) -> Iterator[KeyMapEntry]:
    queries, width = config.resampler_config.queries, config.text_config.hidden_size
    pool = "transformer.visual.attn_pool"
    yield KeyMapEntry(f"{pool}.query", "resampler.query", (queries, width))
    yield KeyMapEntry(f"{pool}.pos_embed", "resampler.positions", (queries, width))
    yield KeyMapEntry(
        f"{pool}.kv_proj.weight", "resampler.kv_proj.weight", (width, config.vision_config.width)
    )
    yield KeyMapEntry(f"{pool}.attn.in_proj_weight", "resampler.qkv.weight", (3 * width, width))
    yield KeyMapEntry(f"{pool}.attn.in_proj_bias", "resampler.qkv.bias", (3 * width,))
    yield from _linear(f"{pool}.attn.out_proj", "resampler.out", width, width)
    yield from _norm(f"{pool}.ln_q", "resampler.ln_q", width)
    yield from _norm(f"{pool}.ln_kv", "resampler.ln_kv", width)
    yield from _norm("transformer.visual.ln_post", "resampler.ln_post", width)
    # The release multiplies by `proj` from the right; a linear layer keeps the transpose.
    yield KeyMapEntry("transformer.visual.proj", "resampler.proj.weight", (width, width), transposed=True)


def _language(config: MonkeyConfig) -> Iterator[KeyMapEntry]:
    text, model = config.text_config, "language_model.model"
    width, inner, words = text.hidden_size, text.intermediate_size, text.vocab_size
    yield KeyMapEntry("transformer.wte.weight", f"{model}.embed_tokens.weight", (words, width))
    for i in range(text.num_hidden_layers):
        layer, ours = f"transformer.h.{i}", f"{model}.layers.{i}"
        yield KeyMapEntry(f"{layer}.ln_1.weight", f"{ours}.input_layernorm.weight", (width,))
        for part, shape in (("weight", (3 * width, width)), ("bias", (3 * width,))):
            for j, name in enumerate("qkv"):
                rows, place = (j * width, (j + 1) * width), f"{ours}.self_attn.{name}_proj.{part}"
                yield KeyMapEntry(f"{layer}.attn.c_attn.{part}", place, shape, rows=rows)
        yield KeyMapEntry(f"{layer}.attn.c_proj.weight", f"{ours}.self_attn.o_proj.weight", (width, width))
        yield KeyMapEntry(f"{layer}.ln_2.weight", f"{ours}.post_attention_layernorm.weight", (width,))
        yield KeyMapEntry(f"{layer}.mlp.w1.weight", f"{ours}.mlp.up_proj.weight", (inner, width))
        yield KeyMapEntry(f"{layer}.mlp.w2.weight", f"{ours}.mlp.gate_proj.weight", (inner, width))
        yield KeyMapEntry(f"{layer}.mlp.c_proj.weight", f"{ours}.mlp.down_proj.weight", (width, inner))
    yield KeyMapEntry("transformer.ln_f.weight", f"{model}.norm.weight", (width,))
    yield KeyMapEntry("lm_head.weight", "language_model.lm_head.weight", (words, width))


def _norm(released: str, ours: str, width: int) -> Iterator[KeyMapEntry]:
    for part in ("weight", "bias"):
        yield KeyMapEntry(f"{released}.{part}", f"{ours}.{part}", (width,))


def _linear(released: str, ours: str, d_out: int, d_in: int) -> Iterator[KeyMapEntry]:
    yield KeyMapEntry(f"{released}.weight", f"{ours}.weight", (d_out, d_in))
    yield KeyMapEntry(f"{released}.bias", f"{ours}.bias", (d_out,))


def assemble(
    shards: Iterable[dict[str, torch.Tensor]], parts: Iterable[KeyMapEntry]
) -> Iterator[dict[str, torch.Tensor]]:
    """Our tensors, shard by shard, as soon as all their pieces have come.

    Every shard and every yielded dict is emptied when the next one is asked for: at most one is held, and the
    adapters whose other tiles are still to come.

    Raises:
        ValueError: adapters of one place that differ in dtype.
    """
    keys = by_key(parts)
    tiles = 1 + max((piece.tile or 0 for group in keys.values() for piece in group), default=0)
    waiting: dict[str, dict[int, torch.Tensor]] = {}
    for shard in shards:
        ready: dict[str, torch.Tensor] = {}
        for key in list(shard):
            tensor = shard.pop(key)
            for piece in keys.get(key, ()):
                part = tensor if piece.rows is None else tensor[slice(*piece.rows)]
                if piece.tile is None:
                    ready[piece.ours] = (part.T if piece.transposed else part).contiguous()
                    continue
                stack = waiting.setdefault(piece.ours, {})
                stack[piece.tile] = part.clone()
                if len(stack) == tiles:
                    ready[piece.ours] = _stack(piece.ours, waiting.pop(piece.ours))
        tensor = part = None
        yield ready
        ready.clear()


def _stack(name: str, tiles: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """The adapters of one place in the order of their tiles; scales become one number per tile."""
    dtypes = {tensor.dtype for tensor in tiles.values()}
    if len(dtypes) > 1:
        raise ValueError(
            f"the adapters of {name} have the dtypes {', '.join(sorted(map(str, dtypes)))}: "
            "save all tiles in one"
        )
    stacked = torch.stack([tiles[tile] for tile in range(len(tiles))])
    return stacked.flatten() if name.endswith(".scaling") else stacked


def released_tensor(parts: list[KeyMapEntry], ours: Callable[[str], torch.Tensor]) -> torch.Tensor:
    """The released tensor of one key's pieces, with memory of its own; `ours` gives tensors by name."""
    taken = []
    for piece in parts:
        tensor = ours(piece.ours) if piece.tile is None else ours(piece.ours)[piece.tile]
        taken.append(tensor.T if piece.transposed else tensor)
    whole = taken[0] if len(taken) == 1 else torch.cat(taken)
    return whole.reshape(parts[0].shape).clone(memory_format=torch.contiguous_format)


def from_released(released: Mapping[str, torch.Tensor], config: MonkeyConfig) -> dict[str, torch.Tensor]:
    """Our state dict of a released one; keys that are in no released checkpoint are left out."""
    [ours] = map(dict, assemble([dict(released)], pieces(config)))
    return ours


def to_released(ours: Mapping[str, torch.Tensor], config: MonkeyConfig) -> dict[str, torch.Tensor]:
    """The released tensors of which `ours` holds all pieces."""
    grouped = by_key(pieces(config)).items()
    return {
        key: released_tensor(parts, ours.__getitem__)
        for key, parts in grouped
        if all(piece.ours in ours for piece in parts)
    }
