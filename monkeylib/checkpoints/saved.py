"""Load a folder in monkeylib's layout, as `save_pretrained` of model and processor writes it.

The folder is checked as strictly as one in the released layout: configuration and processor by their fields,
weights by their names and shapes, before memory is taken for any of them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.utils import logging

from monkeylib import resources
from monkeylib.checkpoints import weight_files
from monkeylib.checkpoints.weight_files import WeightFiles, file_inside
from monkeylib.errors import first_line
from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration, build_on_meta
from monkeylib.model.limits import MAX_TOKENIZER_BYTES, check_file_size, check_grids, check_sizes
from monkeylib.model.tile_lora import TileLoRA
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor
from monkeylib.progress import hide_transformers_bars
from monkeylib.settings_files import read_json
from monkeylib.tiling import check_pixels

# What transformers raises on a configuration with values that fit no model.
CONFIGURATION_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    ZeroDivisionError,
    OverflowError,
    RuntimeError,
    ImportError,
    StrictDataclassError,
)
# Fields by which transformers would read other files than those that were checked, or fetch code.
_REFUSED_FIELDS = ("transformers_weights", "fusion_config", "quantization_config")
_ATTENTION_FIELDS = ("attn_implementation", "_attn_implementation", "experts_implementation")
_ATTENTION = (None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
# A tokenizer has its vocabulary in one of these.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
# Read beside it: its settings, and the template of conversations.
_BESIDE_TOKENIZER = ("tokenizer_config.json", "chat_template.jinja")
_MOST_BEAMS = 1_024
# What decides about a model and does not show in the shapes of its weights.
_NOT_IN_SHAPES = (
    ("vision_config", "model_type"),
    ("resampler_config", "model_type"),
    ("text_config", "model_type"),
    ("vision_config", "num_attention_heads"),
    ("resampler_config", "heads"),
    ("text_config", "num_attention_heads"),
    ("text_config", "num_key_value_heads"),
)


@dataclass(frozen=True)
class SavedCheckpoint:
    """Checked folder in monkeylib's layout.

    Fields:
        folder: the folder.
        config: of the model.
        weights: what its files hold.
        generation_config: how the model generates; None where the folder does not say.
    """

    folder: Path
    config: MonkeyConfig
    weights: WeightFiles
    generation_config: GenerationConfig | None


def read_config(folder: Path) -> MonkeyConfig:
    """Read the configuration of a folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not JSON, that of another kind of model, or has values that fit none. The message
            names file and field.
    """
    config, _ = _read_config(folder)
    return config


def _read_config(folder: Path) -> tuple[MonkeyConfig, dict[str, Any]]:
    """Return the configuration, and the content of its file."""
    path = folder / "config.json"
    if not path.exists():
        expected = (
            "expected a folder with config.json, model.safetensors, processor_config.json and a tokenizer"
        )
        raise FileNotFoundError(
            f"there is no checkpoint at {folder}: {resources.suggest_model(folder, expected)}"
        )

    settings = read_json(file_inside(folder, "config.json"))
    model_type = settings.get("model_type")
    if model_type != MonkeyConfig.model_type:
        raise ValueError(
            f"{path}, model_type, is {model_type!r}: expected {MonkeyConfig.model_type!r}, since this reads "
            "checkpoints of Monkey"
        )

    try:
        _check_settings(settings)
        return MonkeyConfig.from_dict(settings), settings
    except CONFIGURATION_ERRORS as error:
        raise ValueError(f"{path}: {describe_problem(error)}") from error


def describe_problem(error: Exception) -> str:
    """Return what is wrong with a configuration, from one of `CONFIGURATION_ERRORS`."""
    # transformers puts the field into the first line, and the reason into a later one.
    if isinstance(error, StrictDataclassError):
        return " ".join(str(error).split())
    if isinstance(error, KeyError):
        return f"{error} is missing or unknown"
    if isinstance(error, ValueError):
        return first_line(error)
    return f"its values describe no model ({type(error).__name__}: {first_line(error)})"


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Check the fields of a `config.json` before a configuration is built of them.

    Raises:
        ValueError: the message names the field.
    """
    sections = {"": settings}
    for name in ("vision_config", "resampler_config", "text_config"):
        section = settings.get(name)
        if not isinstance(section, dict):
            raise ValueError(f"{name} is missing or is no section of fields")
        sections[f"{name}."] = section

    check_sizes(settings)
    check_grids(settings.get("grids") or [])

    for prefix, section in sections.items():
        for name in _REFUSED_FIELDS:
            if section.get(name) is not None:
                raise ValueError(f"{prefix}{name}: a checkpoint of Monkey has no such field")
        for name in _ATTENTION_FIELDS:
            if section.get(name) not in _ATTENTION:
                raise ValueError(f"{prefix}{name} is {section[name]!r}: expected one of {_ATTENTION[1:]}")

        dtype = section.get("dtype")
        if dtype is not None and not is_float_dtype(dtype):
            raise ValueError(f"{prefix}dtype is {dtype!r}: expected float32, bfloat16 or float16")


def is_float_dtype(name: Any) -> bool:
    """Tell whether a value names a floating-point dtype of torch."""
    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    return isinstance(dtype, torch.dtype) and dtype.is_floating_point


def open_saved(folder: str | Path, config: MonkeyConfig | None = None) -> SavedCheckpoint:
    """Check a folder by its configuration and by the names and shapes in its files.

    Args:
        folder: with `config.json` and the weights.
        config: of the model that the weights are for, by default the folder's own. It may have LoRA that the
            folder lacks: a base model has none.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the files do not hold the tensors that the configuration describes, are cut off, or would
            execute code. The message names file and key.
    """
    folder = Path(folder)
    own_config, settings = _read_config(folder)
    weights = weight_files.open_weights(folder)
    weight_files.check_layers(weights, settings, folder / "config.json")

    if config is None:
        config = own_config
    else:
        _check_same_model(folder, own_config, config)

    try:
        model = build_on_meta(config)
    except CONFIGURATION_ERRORS as error:
        raise ValueError(f"{folder / 'config.json'}: {describe_problem(error)}") from error

    # A language model of experts is saved under other names than those of its modules: transformers knows.
    if not get_model_conversion_mapping(model, add_legacy=False):
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        optional = set(model.all_tied_weights_keys or {})
        if config is not own_config:
            optional |= _lora_names(model)
        weight_files.check_tensors(
            weights,
            shapes,
            optional,
            advice="fetch them again, or take weights and configuration of one checkpoint",
            described_by="config.json" if config is own_config else "the profile",
        )

    return SavedCheckpoint(folder, config, weights, _read_generation_config(folder))


def _check_same_model(folder: Path, own_config: MonkeyConfig, config: MonkeyConfig) -> None:
    """Check that a base model is of the same kinds, and has as many attention heads, as the profile's model.

    Shapes do not show it: the weights load into another model, and compute something else.

    Raises:
        ValueError: they are not.
    """
    for section, name in _NOT_IN_SHAPES:
        trained = getattr(getattr(own_config, section), name, None)
        requested = getattr(getattr(config, section), name, None)
        if trained != requested:
            raise ValueError(
                f"{folder / 'config.json'}, {section}.{name}, is {trained}, the profile asks for "
                f"{requested}: change the profile, or name another base model"
            )


def _lora_names(model: MonkeyForConditionalGeneration) -> set[str]:
    """Return the names of the per-tile LoRA's tensors."""
    return {
        f"{name}.{parameter}"
        for name, module in model.named_modules()
        if isinstance(module, TileLoRA)
        for parameter, _ in module.named_parameters()
    }


def load_saved(
    folder: str | Path,
    dtype: torch.dtype | None = None,
    config: MonkeyConfig | None = None,
    **options: Any,
) -> MonkeyForConditionalGeneration:
    """Load the model of a folder in monkeylib's layout.

    Args:
        folder: with `config.json` and the weights.
        dtype: of the weights; as saved by default.
        config: as in `open_saved`; LoRA that the folder lacks is fresh.
        options: of transformers' `from_pretrained`, such as `device_map`.

    Raises:
        FileNotFoundError, ValueError: as `open_saved`, or a value is not finite.
    """
    checkpoint = open_saved(folder, config)
    if dtype is None:
        dtype = checkpoint.config.dtype or next(iter(checkpoint.weights.shapes.values())).dtype
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype

    # transformers takes the tensors from here, not from the folder, so that it reads what was checked. Its
    # report of fresh LoRA as missing weights would be wrong.
    with checkpoint.weights.open() as tensors, _without_warnings(), hide_transformers_bars():
        return MonkeyForConditionalGeneration.from_pretrained(
            None,
            config=checkpoint.config,
            state_dict=tensors,
            dtype=dtype,
            generation_config=checkpoint.generation_config,
            **options,
        )


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep transformers from warning while a block runs."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _read_generation_config(folder: Path) -> GenerationConfig | None:
    """Read how a model generates, None where the folder does not say.

    Raises:
        ValueError: a value that fits nothing; the message names the file.
    """
    path = folder / "generation_config.json"
    if not path.exists():
        return None

    settings = read_json(file_inside(folder, path.name))
    for name in ("num_beams", "num_return_sequences", "num_beam_groups"):
        value = settings.get(name)
        if value is not None and (not isinstance(value, int) or not 1 <= value <= _MOST_BEAMS):
            raise ValueError(f"{path}, {name}, is {value!r}: expected a whole number from 1 to {_MOST_BEAMS}")

    try:
        return GenerationConfig.from_dict(settings)
    except CONFIGURATION_ERRORS as error:
        raise ValueError(f"{path}: {describe_problem(error)}") from error


# --- processor


def load_saved_processor(folder: str | Path, config: MonkeyConfig | None = None) -> MonkeyProcessor:
    """Load the processor of a folder in monkeylib's layout.

    Args:
        folder: with `processor_config.json` and a tokenizer.
        config: of the model that it is for, which it must agree with.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is broken, or the processor does not fit the model. The message names file and
            field.
    """
    folder = Path(folder)
    path = folder / "processor_config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} holds no processor_config.json: save the processor into the folder of its model with "
            "`processor.save_pretrained`"
        )

    settings = read_json(file_inside(folder, path.name))
    try:
        _check_processor_settings(settings)
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from error
    _require_tokenizer(folder)

    with explain_tokenizer(folder, "the processor or the tokenizer"):
        processor = MonkeyProcessor.from_pretrained(folder)

    if config is not None:
        _check_agreement(folder, processor, config)
    return processor


@contextlib.contextmanager
def explain_tokenizer(folder: Path, subject: str = "the tokenizer") -> Iterator[None]:
    """Replace what readers of tokenizers raise about a broken file by one sentence with its folder.

    Raises:
        ValueError: in place of the reader's errors.
    """
    try:
        yield
    except Exception as error:  # the tokenizers library raises plain Exception
        raise ValueError(
            f"{subject} in {folder} cannot be loaded ({first_line(error)}): save it anew, or fetch it again"
        ) from error


def _check_processor_settings(settings: Mapping[str, Any]) -> None:
    images = settings.get("image_processor")
    if not isinstance(images, dict):
        raise ValueError("image_processor: expected a section of fields")

    check_sizes(settings)
    kind = images.get("image_processor_type", MonkeyImageProcessor.__name__)
    if kind != MonkeyImageProcessor.__name__:
        raise ValueError(f"image_processor.image_processor_type is {kind!r}: expected MonkeyImageProcessor")

    rows, cols, tile_size = (images.get(name) or 1 for name in ("rows", "cols", "tile_size"))
    check_pixels(rows, cols, tile_size)

    for name in ("image_mean", "image_std"):
        values = images.get(name, [1.0, 1.0, 1.0])
        is_colour = isinstance(values, list) and len(values) == 3
        if not is_colour or not all(isinstance(value, int | float) for value in values):
            raise ValueError(f"image_processor.{name} is {values!r}: expected three numbers")
        if name == "image_std" and not all(value > 0 and math.isfinite(value) for value in values):
            raise ValueError(f"image_processor.{name} is {values!r}: expected three numbers above 0")


def _require_tokenizer(folder: Path) -> None:
    """Check that a folder holds a tokenizer, whose files lie in it and have sizes that one may have.

    Raises:
        FileNotFoundError, ValueError: it does not.
    """
    names = [name for name in _TOKENIZER_FILES if (folder / name).exists()]
    if not names:
        raise FileNotFoundError(
            f"{folder} holds no tokenizer.json: save the processor into the folder of its model with "
            "`processor.save_pretrained`"
        )

    for name in (*names, *_BESIDE_TOKENIZER):
        if (folder / name).exists():
            file_inside(folder, name)
    check_tokenizer_sizes(folder)


def check_tokenizer_sizes(folder: Path) -> None:
    """Check that a tokenizer's files in a folder are not larger than one may be; it may have none.

    Raises:
        ValueError: one is larger.
    """
    for name in (*_TOKENIZER_FILES, *_BESIDE_TOKENIZER):
        if (folder / name).is_file():
            check_file_size(folder / name, MAX_TOKENIZER_BYTES, "a tokenizer")


def _check_agreement(folder: Path, processor: MonkeyProcessor, config: MonkeyConfig) -> None:
    """Check that the prompts of a processor are those that a model reads."""
    if processor.queries != config.queries:
        raise ValueError(
            f"{folder / 'processor_config.json'}, queries, is {processor.queries}, but the model of "
            f"config.json has {config.queries} visual tokens a view: take both from one checkpoint"
        )

    ids = (processor.image_start_id, processor.image_end_id, processor.image_token_id)
    ids_of_model = (config.image_start_id, config.image_end_id, config.image_token_id)
    if ids != ids_of_model:
        raise ValueError(
            f"the tokenizer in {folder} gives the image's tokens the ids {ids}, config.json says "
            f"{ids_of_model}: take both from one checkpoint"
        )

    vocabulary = config.text_config.vocab_size
    if len(processor.tokenizer) > vocabulary:
        raise ValueError(
            f"the tokenizer in {folder} has {len(processor.tokenizer)} tokens, the model of config.json has "
            f"embeddings for {vocabulary}: take both from one checkpoint"
        )
