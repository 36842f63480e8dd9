"""Load a folder in the released layout: `config.json`, weights in shards, `qwen.tiktoken`.

Everything is checked on the names and shapes in the files before a tensor is read; then one shard at a time
is in memory. `.bin` files are read with `weights_only=True`, so that nothing in them is executed.
"""

import json
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast
from transformers.initialization import no_init_weights

from monkeylib.checkpoints import qwen_tokenizer
from monkeylib.checkpoints.key_map import (
    KeyMapEntry,
    assemble,
    build_key_map,
    group_by_released_key,
    lora_specs,
)
from monkeylib.checkpoints.released_config import config_from_released, is_base_model
from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration
from monkeylib.model.tile_lora import TileLoRA
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor
from monkeylib.progress import Progress
from monkeylib.prompts import SEPARATOR
from monkeylib.tiling import Grid

# A single file, and the index of several, by preference.
_WEIGHT_FILES = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
_TOKEN_EMBEDDINGS = "transformer.wte.weight"


def is_released(folder: str | Path) -> bool:
    """Tell whether a folder is in the released layout: its `config.json` has a section `visual`."""
    path = Path(folder) / "config.json"
    return path.is_file() and isinstance(_read_json(path).get("visual"), dict)


def load_released(
    folder: str | Path,
    dtype: torch.dtype | None = None,
    grid: Grid | None = None,
    progress: bool = False,
) -> MonkeyForConditionalGeneration:
    """Load the model of a released folder, within the memory of the model and one shard.

    Args:
        folder: with `config.json` and the weights.
        dtype: of the weights; as saved by default.
        grid: as in `config_from_released`.
        progress: show a progress bar.

    Raises:
        FileNotFoundError, ValueError: as `open_released`.
    """
    checkpoint = open_released(folder, grid)
    dtype = dtype or checkpoint.config.dtype

    # Memory is reserved, but every value comes from the files.
    with no_init_weights():
        model = MonkeyForConditionalGeneration._from_config(checkpoint.config, dtype=dtype)
    for tensors in checkpoint.stream(progress=progress):
        # The copies are the model's memory; the tensors themselves still lie on disk.
        copies = {name: tensor.to(dtype, copy=True) for name, tensor in tensors.items()}
        model.load_state_dict(copies, strict=False, assign=True)

    return model.eval()


def load_released_processor(folder: str | Path, grid: Grid | None = None) -> MonkeyProcessor:
    """Load the processor of a released folder: Qwen's vocabulary, and a blank between an image and its text.

    Args:
        folder: with `config.json` and `qwen.tiktoken`; no weights are needed.
        grid: as in `config_from_released`.

    Raises:
        FileNotFoundError: the folder has no `qwen.tiktoken`.
        ValueError: its vocabulary is not that of the model, or as in `config_from_released`.
    """
    config = config_from_released(_read_json(Path(folder) / "config.json"), grid)
    rows, cols = config.grids[0]
    images = MonkeyImageProcessor(config.tile_size, rows, cols)
    tokenizer = _load_tokenizer(Path(folder), config)
    return MonkeyProcessor(images, tokenizer, queries=config.resampler_config.queries, separator=SEPARATOR)


def _load_tokenizer(folder: Path, config: MonkeyConfig) -> PreTrainedTokenizerFast:
    """Load the tokenizer of `qwen.tiktoken`, which must agree with `config.json`."""
    path = folder / qwen_tokenizer.VOCABULARY
    tokenizer = qwen_tokenizer.build_tokenizer(path)

    image_start_id = tokenizer.convert_tokens_to_ids("<img>")
    if image_start_id != config.image_start_id:
        raise ValueError(
            f"{path} gives <img> the id {image_start_id}, config.json says {config.image_start_id}: take the "
            "vocabulary and the config.json of one checkpoint"
        )

    return tokenizer


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """Checked folder in the released layout.

    Fields:
        folder: the folder.
        settings: content of its `config.json`.
        config: the same as monkeylib's configuration.
        files: the keys in each file of weights.
    """

    folder: Path
    settings: dict[str, Any]
    config: MonkeyConfig
    files: dict[str, list[str]]

    @property
    def steps(self) -> int:
        """Number of dictionaries that `stream` yields: one per file, and one of fresh LoRA for Qwen-VL."""
        return len(self.files) + is_base_model(self.settings)

    def stream(
        self, entries: list[KeyMapEntry] | None = None, progress: bool = False
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Yield monkeylib's tensors by name, a file at a time.

        Each dictionary is emptied when the next one is requested. Qwen-VL's fresh LoRA comes last.

        Args:
            entries: only these of the key map; all by default.
            progress: show a progress bar.
        """
        shards = self._read_shards(progress)
        yield from assemble(shards, build_key_map(self.config) if entries is None else entries)

        if is_base_model(self.settings):
            yield _build_fresh_lora(self.config)

    def _read_shards(self, progress: bool) -> Iterator[dict[str, torch.Tensor]]:
        with Progress(unit="files", enabled=progress) as bar:
            bar.add_task("reading", total=len(self.files))
            for name in self.files:
                yield read_shard(self.folder / name)
                bar.advance("reading")


def _build_fresh_lora(config: MonkeyConfig) -> dict[str, torch.Tensor]:
    """Build LoRA that changes nothing yet, for a base model without any."""
    tensors = {}
    for block in range(config.vision_config.layers):
        for spec in lora_specs(config):
            lora = TileLoRA(config.lora_count, spec.rank, spec.d_in, spec.d_out, dropout=0.0)
            for name, tensor in lora.state_dict().items():
                tensors[f"vision.blocks.{block}.{spec.name}.{name}"] = tensor.to(config.dtype)
    return tensors


def open_released(folder: str | Path, grid: Grid | None = None) -> ReleasedCheckpoint:
    """Check a released folder by the names and shapes in its files.

    Args:
        folder: with `config.json` and the weights.
        grid: as in `config_from_released`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the files do not hold the tensors that `config.json` describes, are cut off, or would
            execute code. The message names file and key.
    """
    folder = Path(folder)
    if not is_released(folder):
        raise FileNotFoundError(
            f"there is no released checkpoint at {folder}: expected a folder with a config.json that has a "
            "section `visual`, and pytorch_model*.bin or model*.safetensors"
        )

    settings = _read_json(folder / "config.json")
    config = config_from_released(settings, grid)

    # key -> name of its file, and shape and dtype
    files: dict[str, list[str]] = {}
    tensors: dict[str, tuple[str, torch.Tensor]] = {}
    # The index may promise tensors that a file does not hold, or the reverse.
    for name, keys_in_index in _list_files(folder).items():
        in_file = _read_shapes(folder / name)
        differing = sorted(set(in_file) ^ set(keys_in_index or in_file))
        if differing:
            raise ValueError(
                f"the index of {folder} and its file {name} do not agree on {_first_names(differing)}: "
                "fetch both again"
            )
        files[name] = list(in_file)
        for key, tensor in in_file.items():
            tensors[key] = (name, tensor)

    # Qwen-VL has no LoRA: its files cannot hold those entries.
    key_map = build_key_map(config)
    if is_base_model(settings):
        key_map = [entry for entry in key_map if entry.tile is None]
    _check_tensors(folder, config, group_by_released_key(key_map), tensors)

    # The precision of the weights is that of the token embeddings, whatever config.json says.
    _, token_embeddings = tensors[_TOKEN_EMBEDDINGS]
    config.dtype = token_embeddings.dtype
    config.architectures = [MonkeyForConditionalGeneration.__name__]
    return ReleasedCheckpoint(folder, settings, config, files)


def _list_files(folder: Path) -> dict[str, list[str]]:
    """Return the files of weights, each with its keys as the index lists them; no keys without an index."""
    for single_file, index in _WEIGHT_FILES:
        if (folder / index).is_file():
            files: dict[str, list[str]] = {}
            for key, name in _read_json(folder / index).get("weight_map", {}).items():
                # A path in an index could point outside of the folder.
                if Path(name).name != name:
                    raise ValueError(f"{folder / index} names the file {name!r}: it must lie in the folder")
                files.setdefault(name, []).append(key)
            return dict(sorted(files.items()))

        if (folder / single_file).is_file():
            return {single_file: []}

    single_files = " or ".join(single_file for single_file, _ in _WEIGHT_FILES)
    raise FileNotFoundError(
        f"there are no weights in {folder}: expected {single_files}, or shards with their index"
    )


def _check_tensors(
    folder: Path,
    config: MonkeyConfig,
    entries_of: dict[str, list[KeyMapEntry]],
    tensors: dict[str, tuple[str, torch.Tensor]],
) -> None:
    """Compare keys and shapes in the files with what `config.json` describes.

    Args:
        folder: for the messages.
        config: monkeylib's configuration of the folder.
        entries_of: entries of the key map by released key.
        tensors: file, and shape and dtype, of each key in the files.
    """
    # A wrong number of tiles has its own message; below it would be hundreds of missing keys.
    tiles_in_files = {int(match[1]) for key in tensors if (match := re.search(r"_lora\.(\d+)\.", key))}
    tiles_in_config = {entry.tile for group in entries_of.values() for entry in group} - {None}
    if len(tiles_in_files) != len(tiles_in_config):
        rows, cols = config.grids[0]
        raise ValueError(
            f"the weights in {folder} have LoRA for {len(tiles_in_files)} tiles, its config.json describes "
            f"{len(tiles_in_config)} (grid {rows}x{cols}): correct lora_repeat_num and name the grid"
        )

    missing = [key for key in entries_of if key not in tensors]
    unexpected = [f"{key} ({tensors[key][0]})" for key in tensors if key not in entries_of]
    problems = []
    if missing:
        problems.append(f"lack {_first_names(missing)}")
    if unexpected:
        problems.append(f"hold {_first_names(unexpected)}, which its config.json knows nothing of")
    if problems:
        raise ValueError(
            f"the weights in {folder} {' and '.join(problems)}: fetch them again, or check whether they "
            "are those of a Monkey or Qwen-VL"
        )

    for key, group in entries_of.items():
        name, tensor = tensors[key]
        if tuple(tensor.shape) != group[0].shape:
            raise ValueError(
                f"{key} in {folder / name} has the shape {list(tensor.shape)}, config.json asks for "
                f"{list(group[0].shape)}: take both from one checkpoint"
            )


def read_shard(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of one file, left on disk until they are used; nothing in it is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut off, holds something other than tensors, or would execute code.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the file of weights {path} is missing: fetch it again")

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # mmap: only the tensors that are used are read from disk.
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"{path} holds {match[1] if match else 'an object'}, which could run code when loaded, and was "
            "not loaded: take the weights from their publisher"
        ) from error
    except (SafetensorError, RuntimeError, EOFError) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(
            f"{path} is cut off or is no file of weights ({first_line}): fetch it again"
        ) from error

    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise ValueError(f"{path} holds something other than tensors by name: take the weights alone")
    return tensors


def _read_shapes(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file on the meta device: shape and dtype alone."""
    return {key: tensor.to("meta") for key, tensor in read_shard(path).items()}


def _first_names(names: list[str]) -> str:
    """Join the first names of a list, and say how many more there are."""
    listed = ", ".join(names[:3])
    if len(names) <= 3:
        return listed
    return f"{listed} and {len(names) - 3} more"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON ({error}): fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object: fetch it again")
    return content
