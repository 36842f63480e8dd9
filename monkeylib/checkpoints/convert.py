"""Convert checkpoint folders from the released layout to monkeylib's and back, a file at a time.

What only the released layout has (which tensor lies in which file, the fields of its `config.json`, its other
files) is kept in the subfolder `released/`, so that converting back restores it.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file

from monkeylib import resources
from monkeylib.checkpoints import peft, qwen_tokenizer
from monkeylib.checkpoints.key_map import build_key_map, build_released_tensor, group_by_released_key
from monkeylib.checkpoints.released import is_released, load_released_processor, open_released
from monkeylib.checkpoints.released_config import config_to_released
from monkeylib.checkpoints.saved import load_saved_processor, open_saved
from monkeylib.checkpoints.weight_files import create_folder, file_inside, is_plain_name
from monkeylib.progress import Progress
from monkeylib.settings_files import read_json
from monkeylib.tiling import Grid

# Subfolder of a converted checkpoint with what converting back needs, and in it the file of each key.
_ORIGINALS = "released"
_FILE_OF_KEY = "weight_map.json"

_INDEX_NAMES = {".bin": "pytorch_model.bin.index.json", ".safetensors": "model.safetensors.index.json"}
# Endings of the released files that conversion writes itself.
_REWRITTEN = (".bin", ".safetensors", ".pt", ".pth", ".index.json", qwen_tokenizer.VOCABULARY, "config.json")


def convert_from_released(
    source: str | Path, target: str | Path, grid: Grid | None = None, progress: bool = False
) -> None:
    """Write a released folder in monkeylib's layout: model, processor, and what converting back needs.

    Args:
        source: folder in the released layout.
        target: new folder.
        grid: as in `released_config.config_from_released`.
        progress: show a progress bar.

    Raises:
        FileNotFoundError, ValueError: as `open_released` and `load_released_processor`; nothing is written
            then.
        FileExistsError: `target` holds something already.
    """
    target = resources.to_path(target)
    # Both check the folder, before anything is written.
    checkpoint = open_released(source, grid)
    processor = load_released_processor(source, grid)

    with create_folder(target) as folder:
        file_of: dict[str, str] = {}
        size = 0
        for number, tensors in enumerate(checkpoint.stream(progress=progress), start=1):
            # One file per released shard, so that at most one shard is in memory.
            name = "model.safetensors"
            if checkpoint.steps > 1:
                name = f"model-{number:05}-of-{checkpoint.steps:05}.safetensors"
            size += _save_tensors(tensors, folder / name)
            file_of |= dict.fromkeys(tensors, name)

        _write_index(folder, file_of, size)
        checkpoint.config.save_pretrained(folder)
        processor.save_pretrained(folder)

        # What monkeylib's layout has no room for.
        originals = folder / _ORIGINALS
        originals.mkdir()
        _write_json(originals / "config.json", checkpoint.settings)
        _write_json(originals / _FILE_OF_KEY, _invert(checkpoint.files))
        for file in sorted(Path(source).iterdir()):
            if file.is_file() and not file.name.endswith(_REWRITTEN):
                shutil.copyfile(file, originals / file.name)


def convert_to_released(source: str | Path, target: str | Path, progress: bool = False) -> None:
    """Write a folder of monkeylib's in the released layout, the tensors bit for bit.

    A folder that `convert_from_released` wrote comes back with its files as they were. The weights of another
    one are split into files of 10 GB.

    Args:
        source: folder written by `convert_from_released` or by `save_pretrained` of model and processor.
        target: new folder.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: `source` or a file of it is missing.
        ValueError: `source` is broken, or the released layout cannot hold the model.
        FileExistsError: `target` holds something already.
    """
    source, target = resources.to_path(source), resources.to_path(target)
    checkpoint = open_saved(source)
    config, weights = checkpoint.config, checkpoint.weights
    originals = source / _ORIGINALS
    has_originals = originals.is_dir()
    original_config = read_json(file_inside(originals, "config.json")) if has_originals else None

    settings = config_to_released(config, original_config)
    entries_of = group_by_released_key(build_key_map(config))
    tokenizer = load_saved_processor(source, config).tokenizer

    with weights.open() as tensors_of:
        # The same tensors in the same files as before, or new files of 10 GB.
        if has_originals:
            files = _original_files(originals / _FILE_OF_KEY, list(entries_of))
        else:
            shapes = {
                key: build_released_tensor(group, weights.shapes.__getitem__)
                for key, group in entries_of.items()
            }
            split = split_torch_state_dict_into_shards(
                shapes, filename_pattern="pytorch_model{suffix}.bin", max_shard_size="10GB"
            )
            files = split.filename_to_tensors

        with create_folder(target) as folder, Progress(unit="files", enabled=progress) as bar:
            bar.add_task("writing", total=len(files))
            size = 0
            for name, keys in files.items():
                tensors = {
                    key: build_released_tensor(entries_of[key], lambda name: tensors_of[name].read())
                    for key in keys
                }
                size += _save_tensors(tensors, folder / name)
                # Free this file's tensors before the next file is read.
                tensors.clear()
                bar.advance("writing")

            _write_index(folder, _invert(files), size)
            _write_json(folder / "config.json", settings)
            qwen_tokenizer.write_ranks(tokenizer, folder / qwen_tokenizer.VOCABULARY)
            if has_originals:
                for file in sorted(originals.iterdir()):
                    if file.name not in ("config.json", _FILE_OF_KEY):
                        shutil.copyfile(file, folder / file.name)


def export_lora(source: str | Path, target: str | Path) -> None:
    """Write the per-tile LoRA of a folder in either layout in peft's format, one folder per tile.

    Raises:
        FileNotFoundError, ValueError, FileExistsError: as `convert_to_released` and `open_released`.
    """
    source, target = resources.to_path(source), resources.to_path(target)
    tensors: dict[str, torch.Tensor] = {}
    if is_released(source):
        checkpoint = open_released(source)
        config = checkpoint.config
        # The LoRA alone: only its entries have a tile.
        entries = [entry for entry in build_key_map(config) if entry.tile is not None]
        for ready in checkpoint.stream(entries):
            tensors |= ready
    else:
        saved_checkpoint = open_saved(source)
        config = saved_checkpoint.config
        prefixes = tuple(f"vision.{lora}." for lora in peft.peft_modules(config))
        with saved_checkpoint.weights.open() as tensors_of:
            for name, tensor in tensors_of.items():
                if name.startswith(prefixes):
                    tensors[name] = tensor.read()

    peft.write_lora(tensors, config, target)


def _original_files(path: Path, keys: list[str]) -> dict[str, list[str]]:
    """Return the keys of each file as they were; keys that are new go to the last file.

    Raises:
        FileNotFoundError, ValueError: the file of keys is missing or broken, or names a file with a folder.
    """
    file_of = read_json(file_inside(path.parent, path.name))
    for name in file_of.values():
        # These files are written: a path could lead anywhere.
        if not is_plain_name(name) or Path(name).suffix not in _INDEX_NAMES:
            raise ValueError(f"{path} names the file {name!r}: expected the name of a .bin or .safetensors")
    if not file_of:
        raise ValueError(f"{path} names no file: convert the released folder again")

    files: dict[str, list[str]] = {name: [] for name in sorted(set(file_of.values()))}
    last_file = list(files)[-1]

    current_keys = set(keys)
    for key, name in file_of.items():
        if key in current_keys:
            files[name].append(key)

    for key in keys:
        if key not in file_of:
            files[last_file].append(key)

    return files


def _invert(files: dict[str, list[str]]) -> dict[str, str]:
    """Return the file of each key."""
    return {key: name for name, keys in files.items() for key in keys}


def _save_tensors(tensors: dict[str, torch.Tensor], file: Path) -> int:
    """Write a file of weights, and return the bytes of its tensors."""
    if file.suffix == ".bin":
        torch.save(tensors, file)
    else:
        save_file(tensors, file, metadata={"format": "pt"})
    return sum(tensor.nbytes for tensor in tensors.values())


def _write_index(folder: Path, file_of: dict[str, str], size: int) -> None:
    """Write the index of several files of weights; a single one needs none."""
    file_names = set(file_of.values())
    if len(file_names) > 1:
        index = _INDEX_NAMES[Path(min(file_names)).suffix]
        _write_json(folder / index, {"metadata": {"total_size": size}, "weight_map": file_of})


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
