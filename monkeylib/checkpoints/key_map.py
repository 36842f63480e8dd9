"""Key map between the state dict of a released Monkey or Qwen-VL checkpoint and that of monkeylib.

Three things differ apart from the names. The released checkpoint has one module per LoRA, where monkeylib
stacks those of all tile positions. Its language model has query, key and value in one tensor `c_attn`,
where Qwen2 has three, and calls Qwen2's gate projection `w2` and its up projection `w1`. And it multiplies
by the resampler's `proj` from the right, where a linear layer keeps the transpose.

`build_key_map` lists all entries. Reading (`assemble`) and writing (`build_released_tensor`) both walk over
that list, so that what was read is written back bit for bit.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch

from monkeylib.model import MonkeyConfig

_TOWER = "transformer.visual"
_LANGUAGE_MODEL = "language_model.model"


class KeyMapEntry(NamedTuple):
    """A released tensor, or a part of one, and where it lies in monkeylib.

    Fields:
        released_key: key in the released checkpoint.
        name: name in monkeylib's state dict.
        shape: of the complete released tensor.
        rows: first and last (exclusive) row of the released tensor; None for all of it.
        tile: index in monkeylib's tensor, which is stacked by tile position; None for all of it.
        transposed: the released tensor is the transpose.
    """

    released_key: str
    name: str
    shape: tuple[int, ...]
    rows: tuple[int, int] | None = None
    tile: int | None = None
    transposed: bool = False


def build_key_map(config: MonkeyConfig) -> list[KeyMapEntry]:
    """List every tensor of the released checkpoint of a configuration: 2,581 keys for Monkey at 896x896."""
    return [*_vision(config), *_resampler(config), *_language_model(config)]


def group_by_released_key(entries: Iterable[KeyMapEntry]) -> dict[str, list[KeyMapEntry]]:
    """Return the entries of each released key, in the order of its rows."""
    grouped: dict[str, list[KeyMapEntry]] = {}
    for entry in entries:
        grouped.setdefault(entry.released_key, []).append(entry)
    return grouped


def _vision(config: MonkeyConfig) -> Iterator[KeyMapEntry]:
    vision = config.vision_config
    width, patch = vision.width, vision.patch_size

    # Input of the ViT.
    yield KeyMapEntry(f"{_TOWER}.positional_embedding", "vision.positions", (vision.position_grid**2, width))
    yield KeyMapEntry(f"{_TOWER}.conv1.weight", "vision.patch_embedding.weight", (width, 3, patch, patch))
    yield from _layer_norm(f"{_TOWER}.ln_pre", "vision.ln_pre", width)

    for i in range(vision.layers):
        released, block = f"{_TOWER}.transformer.resblocks.{i}", f"vision.blocks.{i}"
        yield from _layer_norm(f"{released}.ln_1", f"{block}.ln_1", width)
        yield from _linear(f"{released}.attn.in_proj", f"{block}.attention.qkv", 3 * width, width)
        yield from _linear(f"{released}.attn.out_proj", f"{block}.attention.out", width, width)
        yield from _layer_norm(f"{released}.ln_2", f"{block}.ln_2", width)
        yield from _linear(f"{released}.mlp.c_fc", f"{block}.fc", vision.mlp_width, width)
        yield from _linear(f"{released}.mlp.c_proj", f"{block}.proj", width, vision.mlp_width)

        # One released module per tile, which monkeylib stacks.
        for spec in lora_specs(config):
            for tile in range(config.lora_count):
                yield from _lora(f"{released}.{spec.released_key}.{tile}", f"{block}.{spec.name}", spec, tile)


class LoRASpec(NamedTuple):
    """LoRA beside one projection of a block: names in the block, rank, inputs and outputs."""

    released_key: str
    name: str
    rank: int
    d_in: int
    d_out: int


def lora_specs(config: MonkeyConfig) -> list[LoRASpec]:
    """Return the three LoRAs of a block."""
    width, rank = config.vision_config.width, config.attention_rank
    return [
        LoRASpec("attn.in_proj_lora", "attention.qkv_lora", rank, width, 3 * width),
        LoRASpec("attn.out_proj_lora", "attention.out_lora", rank, width, width),
        LoRASpec("mlp_lora", "mlp_lora", config.mlp_rank, width, width),
    ]


def _lora(released: str, name: str, spec: LoRASpec, tile: int) -> Iterator[KeyMapEntry]:
    yield KeyMapEntry(f"{released}.lora_scale", f"{name}.scaling", (1,), tile=tile)
    yield KeyMapEntry(f"{released}.lora_a.weight", f"{name}.lora_A", (spec.rank, spec.d_in), tile=tile)
    yield KeyMapEntry(f"{released}.lora_b.weight", f"{name}.lora_B", (spec.d_out, spec.rank), tile=tile)


def _resampler(config: MonkeyConfig) -> Iterator[KeyMapEntry]:
    queries, width = config.resampler_config.queries, config.text_config.hidden_size
    vision_width = config.vision_config.width
    pool = f"{_TOWER}.attn_pool"

    yield KeyMapEntry(f"{pool}.query", "resampler.query", (queries, width))
    yield KeyMapEntry(f"{pool}.pos_embed", "resampler.positions", (queries, width))
    # The released code has no such tensor where the ViT is as wide as the language model.
    if config.resampler_config.kv_proj:
        yield KeyMapEntry(f"{pool}.kv_proj.weight", "resampler.kv_proj.weight", (width, vision_width))
    yield KeyMapEntry(f"{pool}.attn.in_proj_weight", "resampler.qkv.weight", (3 * width, width))
    yield KeyMapEntry(f"{pool}.attn.in_proj_bias", "resampler.qkv.bias", (3 * width,))
    yield from _linear(f"{pool}.attn.out_proj", "resampler.out", width, width)
    yield from _layer_norm(f"{pool}.ln_q", "resampler.ln_q", width)
    yield from _layer_norm(f"{pool}.ln_kv", "resampler.ln_kv", width)
    yield from _layer_norm(f"{_TOWER}.ln_post", "resampler.ln_post", width)
    yield KeyMapEntry(f"{_TOWER}.proj", "resampler.proj.weight", (width, width), transposed=True)


def _language_model(config: MonkeyConfig) -> Iterator[KeyMapEntry]:
    text = config.text_config
    width, mlp_width, vocabulary = text.hidden_size, text.intermediate_size, text.vocab_size

    yield KeyMapEntry("transformer.wte.weight", f"{_LANGUAGE_MODEL}.embed_tokens.weight", (vocabulary, width))

    for i in range(text.num_hidden_layers):
        released, layer = f"transformer.h.{i}", f"{_LANGUAGE_MODEL}.layers.{i}"
        yield KeyMapEntry(f"{released}.ln_1.weight", f"{layer}.input_layernorm.weight", (width,))
        yield from _fused_attention(f"{released}.attn.c_attn", f"{layer}.self_attn", width)
        yield KeyMapEntry(
            f"{released}.attn.c_proj.weight", f"{layer}.self_attn.o_proj.weight", (width, width)
        )
        yield KeyMapEntry(f"{released}.ln_2.weight", f"{layer}.post_attention_layernorm.weight", (width,))

        mlp, wide, narrow = f"{layer}.mlp", (mlp_width, width), (width, mlp_width)
        yield KeyMapEntry(f"{released}.mlp.w1.weight", f"{mlp}.up_proj.weight", wide)
        yield KeyMapEntry(f"{released}.mlp.w2.weight", f"{mlp}.gate_proj.weight", wide)
        yield KeyMapEntry(f"{released}.mlp.c_proj.weight", f"{mlp}.down_proj.weight", narrow)

    yield KeyMapEntry("transformer.ln_f.weight", f"{_LANGUAGE_MODEL}.norm.weight", (width,))
    yield KeyMapEntry("lm_head.weight", "language_model.lm_head.weight", (vocabulary, width))


def _fused_attention(released: str, name: str, width: int) -> Iterator[KeyMapEntry]:
    """Query, key and value of a layer, which are the three thirds of one released tensor."""
    for part, shape in (("weight", (3 * width, width)), ("bias", (3 * width,))):
        for third, letter in enumerate("qkv"):
            # Released rows 0 to width are the query, then the key, then the value.
            rows = (third * width, (third + 1) * width)
            yield KeyMapEntry(f"{released}.{part}", f"{name}.{letter}_proj.{part}", shape, rows=rows)


def _layer_norm(released: str, name: str, width: int) -> Iterator[KeyMapEntry]:
    for part in ("weight", "bias"):
        yield KeyMapEntry(f"{released}.{part}", f"{name}.{part}", (width,))


def _linear(released: str, name: str, d_out: int, d_in: int) -> Iterator[KeyMapEntry]:
    yield KeyMapEntry(f"{released}.weight", f"{name}.weight", (d_out, d_in))
    yield KeyMapEntry(f"{released}.bias", f"{name}.bias", (d_out,))


def assemble(
    shards: Iterable[dict[str, torch.Tensor]], entries: Iterable[KeyMapEntry]
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield monkeylib's tensors, shard by shard, each as soon as all of its parts are read.

    Every shard and every yielded dictionary is emptied when the next one is requested. So memory holds one of
    them at most, and the LoRAs whose other tiles are still to come.

    Args:
        shards: released tensors by key.
        entries: of the key map; tensors without an entry are left out.

    Raises:
        ValueError: LoRAs of one place that differ in dtype.
    """
    entries_of = group_by_released_key(entries)
    tiles = 1 + max((entry.tile or 0 for group in entries_of.values() for entry in group), default=0)

    # name -> tile -> tensor, of names whose other tiles are still to come
    incomplete: dict[str, dict[int, torch.Tensor]] = {}
    for shard in shards:
        ready: dict[str, torch.Tensor] = {}
        for key in list(shard):
            tensor = shard.pop(key)
            for entry in entries_of.get(key, ()):
                # One released tensor can be several of monkeylib (query, key, value).
                part = tensor if entry.rows is None else tensor[slice(*entry.rows)]
                if entry.tile is None:
                    ready[entry.name] = (part.T if entry.transposed else part).contiguous()
                    continue

                # A view would keep the memory of the whole shard.
                stack = incomplete.setdefault(entry.name, {})
                stack[entry.tile] = part.clone()
                if len(stack) == tiles:
                    ready[entry.name] = _stack_tiles(entry.name, incomplete.pop(entry.name))

        # Hold nothing of this shard while the next one is read.
        tensor = part = None
        yield ready
        ready.clear()


def _stack_tiles(name: str, tensors: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """Stack the LoRAs of one place in the order of their tiles; a scaling is one number per tile."""
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) > 1:
        raise ValueError(
            f"the LoRAs of {name} have the dtypes {', '.join(sorted(map(str, dtypes)))}: "
            "save all tiles in one"
        )

    stacked = torch.stack([tensors[tile] for tile in range(len(tensors))])
    return stacked.flatten() if name.endswith(".scaling") else stacked


def build_released_tensor(
    entries: list[KeyMapEntry], read_tensor: Callable[[str], torch.Tensor]
) -> torch.Tensor:
    """Build the released tensor of one key, in new memory.

    Args:
        entries: all of the key.
        read_tensor: gives monkeylib's tensors by name.
    """
    parts = []
    for entry in entries:
        tensor = read_tensor(entry.name)
        if entry.tile is not None:
            tensor = tensor[entry.tile]
        parts.append(tensor.T if entry.transposed else tensor)

    released = parts[0] if len(parts) == 1 else torch.cat(parts)
    return released.reshape(entries[0].shape).clone(memory_format=torch.contiguous_format)
