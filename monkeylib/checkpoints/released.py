"""Load a folder in the released layout: `config.json`, weights in shards, `qwen.tiktoken`.

Everything is checked on the names and shapes in the files before a tensor is read; then one shard at a time
is in memory. `.bin` files are read with `weights_only=True`, so that nothing in them is executed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast
from transformers.initialization import no_init_weights

from monkeylib.checkpoints import qwen_tokenizer, weight_files
from monkeylib.checkpoints.key_map import (
    KeyMapEntry,
    assemble,
    build_key_map,
    lora_specs,
)
from monkeylib.checkpoints.released_config import config_from_released, is_base_model
from monkeylib.checkpoints.saved import CONFIGURATION_ERRORS
from monkeylib.checkpoints.weight_files import WeightFiles, file_inside, read_finite
from monkeylib.errors import first_line
from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration
from monkeylib.model.tile_lora import TileLoRA
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor
from monkeylib.progress import Progress
from monkeylib.prompts import SEPARATOR
from monkeylib.settings_files import read_json
from monkeylib.tiling import Grid

_TOKEN_EMBEDDINGS = "transformer.wte.weight"


def is_released(folder: str | Path) -> bool:
    """Tell whether a folder is in the released layout: its `config.json` has a section `visual`."""
    path = Path(folder) / "config.json"
    return path.is_file() and isinstance(read_json(path).get("visual"), dict)


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
    config = _convert_config(Path(folder), read_json(file_inside(Path(folder), "config.json")), grid)
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
                yield read_finite(self.folder / name)
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

    settings = read_json(file_inside(folder, "config.json"))
    weights = weight_files.open_weights(folder)
    weight_files.check_layers(weights, settings, folder / "config.json")
    config = _convert_config(folder, settings, grid)

    # Qwen-VL has no LoRA: its files cannot hold those entries.
    key_map = build_key_map(config)
    if is_base_model(settings):
        key_map = [entry for entry in key_map if entry.tile is None]
    _check_lora_count(config, key_map, weights)
    weight_files.check_tensors(
        weights,
        {entry.released_key: entry.shape for entry in key_map},
        advice="fetch them again, or check whether they are those of a Monkey or Qwen-VL",
    )

    # The precision of the weights is that of the token embeddings, whatever config.json says.
    config.dtype = weights.shapes[_TOKEN_EMBEDDINGS].dtype
    config.architectures = [MonkeyForConditionalGeneration.__name__]
    return ReleasedCheckpoint(folder, settings, config, weights.files)


def _convert_config(folder: Path, settings: dict[str, Any], grid: Grid | None) -> MonkeyConfig:
    """Convert the content of a folder's `config.json`.

    Raises:
        ValueError: a value fits no model; the message names the file.
    """
    try:
        return config_from_released(settings, grid)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error
    except CONFIGURATION_ERRORS as error:
        raise ValueError(
            f"{folder / 'config.json'}: its values describe no model ({type(error).__name__}: "
            f"{first_line(error)})"
        ) from error


def _check_lora_count(config: MonkeyConfig, key_map: list[KeyMapEntry], weights: WeightFiles) -> None:
    """Check for how many tiles the files have LoRA: a wrong number would be hundreds of missing keys.

    Raises:
        ValueError: for another number than `config.json` describes.
    """
    tiles_in_files = {int(match[1]) for key in weights.shapes if (match := re.search(r"_lora\.(\d+)\.", key))}
    tiles_in_config = {entry.tile for entry in key_map} - {None}
    if len(tiles_in_files) != len(tiles_in_config):
        rows, cols = config.grids[0]
        raise ValueError(
            f"the weights in {weights.folder} have LoRA for {len(tiles_in_files)} tiles, its config.json "
            f"describes {len(tiles_in_config)} (grid {rows}x{cols}): correct lora_repeat_num and name the "
            "grid"
        )
