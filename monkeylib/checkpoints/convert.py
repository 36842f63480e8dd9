"""Convert checkpoint folders from the released layout to monkeylib's and back, a file at a time.

What only the released layout has (which tensor lies in which file, the fields of its `config.json`, its other
files) is kept in the subfolder `released/`, so that converting back restores it.
"""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer

from monkeylib import resources
from monkeylib.checkpoints import peft, qwen_tokenizer
from monkeylib.checkpoints.key_map import build_key_map, build_released_tensor, group_by_released_key
from monkeylib.checkpoints.released import is_released, load_released_processor, open_released
from monkeylib.checkpoints.released_config import config_to_released
from monkeylib.model import MonkeyConfig
from monkeylib.progress import Progress
from monkeylib.tiling import Grid

# Subfolder of a converted checkpoint with what converting back needs, and in it the file of each key.
_ORIGINALS = "released"
_FILE_OF_KEY = "weight_map.json"

_INDEX_NAMES = {".bin": "pytorch_model.bin.index.json", ".safetensors": "model.safetensors.index.json"}
# Endings of the released files that conversion writes itself.
_REWRITTEN = (".bin", ".safetensors", ".pt", ".pth", ".index.json", qwen_tokenizer.VOCABULARY, "config.json")


def convert_from_released(
    source: Path, target: Path, grid: Grid | None = None, progress: bool = False
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
    # Both check the folder, before anything is written.
    checkpoint = open_released(source, grid)
    processor = load_released_processor(source, grid)

    with resources.create_folder(target) as folder:
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


def convert_to_released(source: Path, target: Path, progress: bool = False) -> None:
    """Write a folder of monkeylib's in the released layout, the tensors bit for bit.

    A folder that `convert_from_released` wrote comes back with its files as they were. The weights of another
    one are split into files of 10 GB.

    Args:
        source: folder written by `convert_from_released` or by `save_pretrained` of model and processor.
        target: new folder.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: `source` or a file of it is missing.
        ValueError: the released layout cannot hold the model.
        FileExistsError: `target` holds something already.
    """
    with ExitStack() as stack:
        reader = LazyStateDict(source, stack)
        originals = source / _ORIGINALS
        has_originals = originals.is_dir()
        original_config = _read_json(originals / "config.json") if has_originals else None

        # The weights must be exactly those that the configuration describes.
        settings = config_to_released(reader.config, original_config)
        entries_of = group_by_released_key(build_key_map(reader.config))
        differing = {entry.name for group in entries_of.values() for entry in group} ^ set(reader.files)
        if differing:
            raise ValueError(f"{min(differing)} in {source} does not fit its config.json: save it anew")
        tokenizer = AutoTokenizer.from_pretrained(source)

        # The same tensors in the same files as before, or new files of 10 GB.
        if has_originals:
            files = _original_files(_read_json(originals / _FILE_OF_KEY), list(entries_of))
        else:
            shapes = {
                key: build_released_tensor(group, reader.read_shape) for key, group in entries_of.items()
            }
            split = split_torch_state_dict_into_shards(
                shapes, filename_pattern="pytorch_model{suffix}.bin", max_shard_size="10GB"
            )
            files = split.filename_to_tensors

        with resources.create_folder(target) as folder, Progress(unit="files", enabled=progress) as bar:
            bar.add_task("writing", total=len(files))
            size = 0
            for name, keys in files.items():
                tensors = {key: build_released_tensor(entries_of[key], reader.read) for key in keys}
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


def export_lora(source: Path, target: Path) -> None:
    """Write the per-tile LoRA of a folder in either layout in peft's format, one folder per tile.

    Raises:
        FileNotFoundError, ValueError, FileExistsError: as `convert_to_released` and `open_released`.
    """
    tensors: dict[str, torch.Tensor] = {}
    if is_released(source):
        checkpoint = open_released(source)
        config = checkpoint.config
        # The LoRA alone: only its entries have a tile.
        entries = [entry for entry in build_key_map(config) if entry.tile is not None]
        for ready in checkpoint.stream(entries):
            tensors |= ready
    else:
        with ExitStack() as stack:
            reader = LazyStateDict(source, stack)
            config = reader.config
            prefixes = tuple(f"vision.{lora}." for lora in peft.peft_modules(config))
            for name in reader.files:
                if name.startswith(prefixes):
                    tensors[name] = reader.read(name)

    peft.write_lora(tensors, config, target)


class LazyStateDict:
    """State dict of a folder of monkeylib's, read tensor by tensor.

    Args:
        folder: with `config.json` and safetensors files.
        stack: closes the files.

    Raises:
        FileNotFoundError: there is no checkpoint, or a file of weights is missing.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"there is no checkpoint at {folder}: expected a folder with config.json")
        self.config = MonkeyConfig.from_pretrained(folder)

        # Weights lie in one file, or in several with an index.
        index = folder / _INDEX_NAMES[".safetensors"]
        file_names = ["model.safetensors"]
        if index.is_file():
            file_names = sorted(set(_read_json(index)["weight_map"].values()))

        self.files: dict[str, Any] = {}
        for file_name in file_names:
            if not (folder / file_name).is_file():
                raise FileNotFoundError(f"the file of weights {folder / file_name} is missing")
            file = stack.enter_context(safe_open(folder / file_name, framework="pt"))
            self.files |= dict.fromkeys(file.keys(), file)

    def read(self, name: str) -> torch.Tensor:
        """Read the tensor of that name."""
        return self.files[name].get_tensor(name)

    def read_shape(self, name: str) -> torch.Tensor:
        """Read its shape and dtype alone, as a tensor on the meta device."""
        return self.read(name).to("meta")


def _original_files(file_of: dict[str, str], keys: list[str]) -> dict[str, list[str]]:
    """Return the keys of each file as they were; keys that are new go to the last file."""
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


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))
