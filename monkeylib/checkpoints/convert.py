"""Convert folders: the released layout -> ours and back, a shard at a time.

What the released layout needs and ours does not say (which tensor lies in which shard, the fields of its
`config.json`, its other files) is kept in the subfolder `released/`, so that it is written back as it was.
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
from tqdm import tqdm
from transformers import AutoTokenizer

from monkeylib import resources
from monkeylib.checkpoints import peft, qwen_tokenizer
from monkeylib.checkpoints.key_map import by_key, pieces, released_tensor
from monkeylib.checkpoints.released import is_released, load_released_processor, open_released
from monkeylib.checkpoints.released_config import released_config
from monkeylib.model import MonkeyConfig
from monkeylib.tiling import Grid

_KEPT = "released"
_SHARDS = "weight_map.json"
_INDEX = {".bin": "pytorch_model.bin.index.json", ".safetensors": "model.safetensors.index.json"}
_NOT_KEPT = (".bin", ".safetensors", ".pt", ".pth", ".index.json", qwen_tokenizer.VOCABULARY, "config.json")


def convert(source: Path, target: Path, grid: Grid | None = None, progress: bool = False) -> None:
    """Write a released folder as one of ours: model, processor, and what leads back.

    Args:
        source: folder in the released layout.
        target: new folder.
        grid: as in `settings.config_from_released`.
        progress: show a bar.

    Raises:
        FileNotFoundError, ValueError: as `released.open_released` and `load_released_processor`;
            nothing is written then.
        FileExistsError: `target` holds something already.
    """
    checkpoint = open_released(source, grid)
    processor = load_released_processor(source, grid)
    with resources.create_folder(target) as folder:
        places: dict[str, str] = {}
        size = 0
        for number, tensors in enumerate(checkpoint.stream(progress=progress), start=1):
            name = "model.safetensors"
            if checkpoint.steps > 1:
                name = f"model-{number:05}-of-{checkpoint.steps:05}.safetensors"
            size += _save(tensors, folder / name)
            places |= dict.fromkeys(tensors, name)
        _write_index(folder, places, size)
        checkpoint.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        kept = folder / _KEPT
        kept.mkdir()
        _write_json(kept / "config.json", checkpoint.settings)
        _write_json(kept / _SHARDS, {key: name for name, keys in checkpoint.files.items() for key in keys})
        for file in sorted(Path(source).iterdir()):
            if file.is_file() and not file.name.endswith(_NOT_KEPT):
                shutil.copyfile(file, kept / file.name)


def export(source: Path, target: Path, progress: bool = False) -> None:
    """Write one of our folders in the released layout, the tensors bit for bit.

    A folder made by `convert` comes back with its shards and files as they were; another one gets shards of
    10 GB.

    Args:
        source: folder written by `convert` or by `save_pretrained` of model and processor.
        target: new folder.
        progress: show a bar.

    Raises:
        FileNotFoundError: `source` or a file of it is missing.
        ValueError: the released layout cannot hold the model.
        FileExistsError: `target` holds something already.
    """
    with ExitStack() as stack:
        ours = OurTensors(source, stack)
        config, kept = ours.config, source / _KEPT
        original = _read_json(kept / "config.json") if kept.is_dir() else None
        settings = released_config(config, original)
        groups = by_key(pieces(config))
        if lacking := {piece.ours for group in groups.values() for piece in group} ^ set(ours.files):
            raise ValueError(f"{sorted(lacking)[0]} in {source} does not fit its config.json: save it anew")
        words = AutoTokenizer.from_pretrained(source)
        if original is None:
            meta = {key: released_tensor(group, ours.meta) for key, group in groups.items()}
            pattern = "pytorch_model{suffix}.bin"
            files = split_torch_state_dict_into_shards(
                meta, filename_pattern=pattern, max_shard_size="10GB"
            ).filename_to_tensors
        else:
            files = _as_it_was(_read_json(kept / _SHARDS), list(groups))
        with resources.create_folder(target) as folder:
            size = 0
            for name, keys in tqdm(files.items(), desc="shards", disable=not progress):
                shard = {key: released_tensor(groups[key], ours.read) for key in keys}
                size += _save(shard, folder / name)
                shard.clear()
            _write_index(folder, {key: name for name, keys in files.items() for key in keys}, size)
            _write_json(folder / "config.json", settings)
            qwen_tokenizer.write_ranks(words, folder / qwen_tokenizer.VOCABULARY)
            for file in sorted(kept.iterdir()) if original is not None else []:
                if file.name not in ("config.json", _SHARDS):
                    shutil.copyfile(file, folder / file.name)


def export_lora(source: Path, target: Path) -> None:
    """Write the adapters of a folder, ours or in the released layout, in peft's format: a folder per tile.

    Raises:
        FileNotFoundError, ValueError, FileExistsError: as `export` and `released.open_released`.
    """
    if is_released(source):
        checkpoint = open_released(source)
        config, tensors = checkpoint.config, {}
        for ours in checkpoint.stream([piece for piece in pieces(config) if piece.tile is not None]):
            tensors |= ours
    else:
        with ExitStack() as stack:
            ours = OurTensors(source, stack)
            config = ours.config
            banks = tuple(f"vision.{bank}." for bank in peft.places(config))
            tensors = {name: ours.read(name) for name in ours.files if name.startswith(banks)}
    peft.write(tensors, config, target)


class OurTensors:
    """The tensors of one of our folders, read one by one; the files are closed with `stack`."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"there is no checkpoint at {folder}: expected a folder with config.json")
        self.config = MonkeyConfig.from_pretrained(folder)
        index = folder / _INDEX[".safetensors"]
        names = (
            sorted(set(_read_json(index)["weight_map"].values()))
            if index.is_file()
            else ["model.safetensors"]
        )
        self.files: dict[str, Any] = {}
        for name in names:
            if not (folder / name).is_file():
                raise FileNotFoundError(f"the file of weights {folder / name} is missing")
            file = stack.enter_context(safe_open(folder / name, framework="pt"))
            self.files |= dict.fromkeys(file.keys(), file)

    def read(self, name: str) -> torch.Tensor:
        """The tensor of that name."""
        return self.files[name].get_tensor(name)

    def meta(self, name: str) -> torch.Tensor:
        """Its shape and dtype alone."""
        return self.read(name).to("meta")


def _as_it_was(places: dict[str, str], keys: list[str]) -> dict[str, list[str]]:
    """File -> keys as they were; keys that are new go to the last file."""
    files: dict[str, list[str]] = {name: [] for name in sorted(set(places.values()))}
    last, known = list(files)[-1], set(keys)
    for key in [*(key for key in places if key in known), *(key for key in keys if key not in places)]:
        files[places.get(key, last)].append(key)
    return files


def _save(tensors: dict[str, torch.Tensor], file: Path) -> int:
    """Write a file of weights; returns the bytes of its tensors."""
    if file.suffix == ".bin":
        torch.save(tensors, file)
    else:
        save_file(tensors, file, metadata={"format": "pt"})
    return sum(tensor.nbytes for tensor in tensors.values())


def _write_index(folder: Path, places: dict[str, str], size: int) -> None:
    """The index of several files of weights; a single one needs none."""
    files = set(places.values())
    if len(files) > 1:
        index = _INDEX[Path(min(files)).suffix]
        _write_json(folder / index, {"metadata": {"total_size": size}, "weight_map": places})


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))
