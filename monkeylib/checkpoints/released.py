"""Read a folder in the released layout: `config.json`, weights in shards, `qwen.tiktoken`.

Everything is checked on the heads of the files before a tensor is read; then one shard at a time is held.
`.bin` files are read with `weights_only=True`, so that nothing in them runs.
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
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast
from transformers.initialization import no_init_weights

from monkeylib.checkpoints import qwen_tokenizer
from monkeylib.checkpoints.key_map import KeyMapEntry, assemble, by_key, lora_specs, pieces
from monkeylib.checkpoints.released_config import config_from_released, is_base
from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration
from monkeylib.model.lora import TileLoRA
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor
from monkeylib.prompts import SEPARATOR
from monkeylib.tiling import Grid

# Single file, and index of several, by preference.
_WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
_EMBEDDINGS = "transformer.wte.weight"


@dataclass(frozen=True)
class Checkpoint:
    """A checked folder: its configuration, in its own words and ours, and the keys of each file."""

    folder: Path
    settings: dict[str, Any]
    config: MonkeyConfig
    files: dict[str, list[str]]

    @property
    def steps(self) -> int:
        """How many parts `stream` gives."""
        return len(self.files) + is_base(self.settings)

    def stream(self, parts: list[KeyMapEntry] | None = None, progress: bool = False) -> Iterator[dict]:
        """Our tensors, a shard at a time; each dict is emptied when the next one is asked for.

        Args:
            parts: only these pieces; all by default. Fresh adapters come last where there are none.
            progress: show a bar.
        """
        names = tqdm(self.files, desc="shards", disable=not progress)
        shards = (read_shard(self.folder / name) for name in names)
        yield from assemble(shards, pieces(self.config) if parts is None else parts)
        if is_base(self.settings):
            yield _fresh_lora(self.config)


def is_released(folder: str | Path) -> bool:
    """Whether a folder is in the released layout: its `config.json` has a section `visual`."""
    path = Path(folder) / "config.json"
    return path.is_file() and isinstance(_json(path).get("visual"), dict)


def open_released(folder: str | Path, grid: Grid | None = None) -> Checkpoint:
    """Check a released folder, from the heads of its files.

    Args:
        folder: of `config.json` and the weights.
        grid: as in `config_from_released`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the files do not hold the tensors that `config.json` describes, are cut off, or would run
            code. The message names file and key.
    """
    folder = Path(folder)
    if not is_released(folder):
        raise FileNotFoundError(
            f"there is no released checkpoint at {folder}: expected a folder with a config.json that has a "
            "section `visual`, and pytorch_model*.bin or model*.safetensors"
        )
    settings = _json(folder / "config.json")
    config = config_from_released(settings, grid)
    expected = by_key(piece for piece in pieces(config) if piece.tile is None or not is_base(settings))
    files: dict[str, list[str]] = {}
    found: dict[str, tuple[str, torch.Tensor]] = {}
    for name, keys in _files(folder).items():
        heads = _heads(folder / name)
        if stray := sorted(set(heads) ^ set(keys or heads)):
            raise ValueError(
                f"the index of {folder} and its file {name} do not agree on {_some(stray)}: fetch both again"
            )
        files[name] = list(heads)
        found |= {key: (name, tensor) for key, tensor in heads.items()}
    _check(folder, config, expected, found)
    config.dtype = found[_EMBEDDINGS][1].dtype
    config.architectures = [MonkeyForConditionalGeneration.__name__]
    return Checkpoint(folder, settings, config, files)


def load_released(
    folder: str | Path,
    dtype: torch.dtype | None = None,
    grid: Grid | None = None,
    progress: bool = False,
) -> MonkeyForConditionalGeneration:
    """The model of a released folder, within the memory of the model and one shard.

    Args:
        folder: of `config.json` and the weights.
        dtype: of the weights; as saved by default.
        grid: as in `config_from_released`.
        progress: show a bar.

    Raises:
        FileNotFoundError, ValueError: as `open_released`.
    """
    checkpoint = open_released(folder, grid)
    dtype = dtype or checkpoint.config.dtype
    with no_init_weights():
        model = MonkeyForConditionalGeneration._from_config(checkpoint.config, dtype=dtype)
    for ours in checkpoint.stream(progress=progress):
        copies = {name: tensor.to(dtype, copy=True) for name, tensor in ours.items()}
        model.load_state_dict(copies, strict=False, assign=True)
    return model.eval()


def load_released_processor(folder: str | Path, grid: Grid | None = None) -> MonkeyProcessor:
    """Load the processor of a released folder: Qwen's vocabulary, and a blank between an image and its text.

    Args:
        folder: of `config.json` and `qwen.tiktoken`; no weights are needed.
        grid: as in `config_from_released`.

    Raises:
        FileNotFoundError: the folder has no `qwen.tiktoken`.
        ValueError: its vocabulary is not that of the model, or as in `config_from_released`.
    """
    config = config_from_released(_json(Path(folder) / "config.json"), grid)
    rows, cols = config.grids[0]
    images = MonkeyImageProcessor(config.tile_size, rows, cols)
    tokenizer = _tokenizer(Path(folder), config)
    return MonkeyProcessor(images, tokenizer, queries=config.resampler_config.queries, separator=SEPARATOR)


def _tokenizer(folder: Path, config: MonkeyConfig) -> PreTrainedTokenizerFast:
    """The tokenizer of `qwen.tiktoken`, which must agree with `config.json`."""
    path = folder / qwen_tokenizer.VOCABULARY
    tokenizer = qwen_tokenizer.build(path)

    image_start_id = tokenizer.convert_tokens_to_ids("<img>")
    if image_start_id != config.image_start_id:
        raise ValueError(
            f"{path} gives <img> the id {image_start_id}, config.json says {config.image_start_id}: take the "
            "vocabulary and the config.json of one checkpoint"
        )
    return tokenizer


def read_shard(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of one file, left on disk until they are used; nothing in it is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut off, holds something other than tensors, or would run code.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the file of weights {path} is missing: fetch it again")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        what = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"{path} holds {what[1] if what else 'an object'}, which could run code when loaded, and was not "
            "loaded: take the weights from their publisher"
        ) from error
    except (SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} is cut off or is no file of weights ({str(error).splitlines()[0]}): fetch it again"
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise ValueError(f"{path} holds something other than tensors by name: take the weights alone")
    return tensors


def _heads(path: Path) -> dict[str, torch.Tensor]:
    """Shape and dtype of each tensor of a file."""
    return {key: tensor.to("meta") for key, tensor in read_shard(path).items()}


def _files(folder: Path) -> dict[str, list[str]]:
    """File of weights -> its keys as the index lists them, or no keys where there is no index."""
    for single, index in _WEIGHTS:
        if (folder / index).is_file():
            files: dict[str, list[str]] = {}
            for key, name in _json(folder / index).get("weight_map", {}).items():
                if Path(name).name != name:
                    raise ValueError(f"{folder / index} names the file {name!r}: it must lie in the folder")
                files.setdefault(name, []).append(key)
            return dict(sorted(files.items()))
        if (folder / single).is_file():
            return {single: []}
    raise FileNotFoundError(
        f"there are no weights in {folder}: expected {' or '.join(single for single, _ in _WEIGHTS)}, or "
        "shards with their index"
    )


def _check(
    folder: Path,
    config: MonkeyConfig,
    expected: dict[str, list[KeyMapEntry]],
    found: dict[str, tuple[str, torch.Tensor]],
) -> None:
    """Compare keys and shapes with what `config.json` describes."""
    tiles = {int(match[1]) for key in found if (match := re.search(r"_lora\.(\d+)\.", key))}
    wanted = {piece.tile for group in expected.values() for piece in group if piece.tile is not None}
    if len(tiles) != len(wanted):
        rows, cols = config.grids[0]
        raise ValueError(
            f"the weights in {folder} have adapters for {len(tiles)} tiles, its config.json describes "
            f"{len(wanted)} (grid {rows}x{cols}): correct lora_repeat_num and name the grid"
        )
    missing = [key for key in expected if key not in found]
    unexpected = [f"{key} ({found[key][0]})" for key in found if key not in expected]
    if missing or unexpected:
        lack = [f"lack {_some(missing)}"] if missing else []
        hold = [f"hold {_some(unexpected)}, which its config.json knows nothing of"] if unexpected else []
        raise ValueError(
            f"the weights in {folder} {' and '.join(lack + hold)}: fetch them again, or check whether they "
            "are those of a Monkey or Qwen-VL"
        )
    for key, group in expected.items():
        name, tensor = found[key]
        if tuple(tensor.shape) != group[0].shape:
            raise ValueError(
                f"{key} in {folder / name} has the shape {list(tensor.shape)}, config.json asks for "
                f"{list(group[0].shape)}: take both from one checkpoint"
            )


def _fresh_lora(config: MonkeyConfig) -> dict[str, torch.Tensor]:
    """Adapters that change nothing yet, for a base without any."""
    fresh = {}
    for i in range(config.vision_config.layers):
        for bank in lora_specs(config):
            module = TileLoRA(config.lora_count, bank.rank, bank.d_in, bank.d_out, 0.0)
            for name, tensor in module.state_dict().items():
                fresh[f"vision.blocks.{i}.{bank.ours}.{name}"] = tensor.to(config.dtype)
    return fresh


def _some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON ({error}): fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object: fetch it again")
    return content
