"""Folders in the released layout, for tests: the golden weights, and tiny ones of any configuration."""

import gzip
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from monkeylib.checkpoints.key_map import (
    assemble,
    build_key_map,
    build_released_tensor,
    group_by_released_key,
)
from monkeylib.experiments import parity
from monkeylib.model import MonkeyConfig

VOCABULARY = Path(__file__).parents[1] / "data" / "qwen.tiktoken.gz"

# Depths and counts of the released Monkey, whose keys depend on them; the widths are small.
TRUE_SETTINGS = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 16,
    "num_hidden_layers": 32,
    "num_attention_heads": 2,
    "max_position_embeddings": 8192,
    "layer_norm_epsilon": 1e-6,
    "rotary_emb_base": 10000,
    "visual": {
        "image_size": 896,
        "patch_size": 14,
        "width": 8,
        "layers": 48,
        "heads": 2,
        "mlp_ratio": 4.9231,
        "output_dim": 128,
        "lora_repeat_num": 4,
        "image_start_id": 500,
    },
}


def vocabulary(words: int | None = None) -> bytes:
    """Return the first ranks of Qwen's vocabulary file, or all of them."""
    return b"".join(gzip.decompress(VOCABULARY.read_bytes()).splitlines(keepends=True)[:words])


def golden_settings(**visual) -> dict:
    """Return the `config.json` of the golden weights, with other fields in its section `visual`."""
    settings = parity.released_config()
    return settings | {"visual": settings["visual"] | visual, "kept": "as it was"}


def write(folder: Path, settings: dict, weights: dict, shards: int = 3, suffix: str = ".bin") -> Path:
    """Write a folder in the released layout; neighbouring keys go to different shards."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "qwen.tiktoken").write_bytes(vocabulary(parity.VOCABULARY_SIZE))
    (folder / "configuration_qwen.py").write_text("raise SystemExit('never run')\n")

    stem = "pytorch_model" if suffix == ".bin" else "model"
    file_of = {}
    for number in range(shards):
        shard = {key: weights[key] for key in list(weights)[number::shards]}
        name = f"{stem}{suffix}" if shards == 1 else f"{stem}-{number + 1:05}-of-{shards:05}{suffix}"
        if suffix == ".bin":
            torch.save(shard, folder / name)
        else:
            save_file(shard, folder / name)
        file_of |= dict.fromkeys(shard, name)

    if shards > 1:
        size = sum(tensor.nbytes for tensor in weights.values())
        index = {"metadata": {"total_size": size}, "weight_map": file_of}
        (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))

    return folder


def read(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Return the tensors of each file of weights."""
    files = sorted([*folder.glob("*.bin"), *folder.glob("*.safetensors")])
    return {
        file.name: load_file(file) if file.suffix == ".safetensors" else torch.load(file) for file in files
    }


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Return whether keys, dtypes and bits are the same."""
    return left.keys() == right.keys() and all(
        tensor.dtype == right[key].dtype and torch.equal(tensor, right[key]) for key, tensor in left.items()
    )


def from_released_layout(weights: dict[str, torch.Tensor], config: MonkeyConfig) -> dict[str, torch.Tensor]:
    """Return monkeylib's state dict of released weights."""
    (state,) = map(dict, assemble([dict(weights)], build_key_map(config)))
    return state


def to_released_layout(tensors: dict[str, torch.Tensor], config: MonkeyConfig) -> dict[str, torch.Tensor]:
    """Return the released tensors of which `tensors` holds all parts."""
    released = {}
    for key, entries in group_by_released_key(build_key_map(config)).items():
        if all(entry.name in tensors for entry in entries):
            released[key] = build_released_tensor(entries, tensors.__getitem__)
    return released
