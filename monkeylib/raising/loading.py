"""Load what answers as a raised model: a folder of one, or a base that is raised now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from monkeylib import resources
from monkeylib.checkpoints import hub, released
from monkeylib.model import MonkeyConfig, cpu
from monkeylib.raising.bases import Bits, load_base, load_base_processor
from monkeylib.raising.files import SETTINGS
from monkeylib.raising.raised import load_raised, raise_resolution
from monkeylib.settings_files import read_json


def is_raised(name: str | Path) -> bool:
    """Tell whether a name is that of a folder, or of a repository on the hub, that holds a raised model."""
    folder = resources.to_path(name)
    if folder.exists():
        return (folder / SETTINGS).is_file()
    if not _may_be_on_hub(name):
        return False

    hub.go_offline_if_unreachable(name)
    try:
        hf_hub_download(str(name), SETTINGS)
    except (OSError, HFValidationError):  # no such file or repository, or no hub
        return False
    return True


def _may_be_on_hub(name: str | Path) -> bool:
    """Tell whether a name is "owner/name", and no path beside folders that are here."""
    folder = resources.to_path(name)
    return not folder.exists() and str(name).count("/") == 1 and not folder.parent.is_dir()


def may_be_raised(name: str | Path) -> bool:
    """Tell whether a name is that of a base: an image-text model of transformers other than Monkey, in a
    folder or on the hub."""
    folder = resources.to_path(name)
    if not folder.exists():
        return _is_image_text_type(_type_on_hub(name))
    if not (folder / "config.json").is_file() or released.is_released(folder):
        return False
    return _is_image_text_type(read_json(folder / "config.json").get("model_type"))


def _is_image_text_type(model_type: Any) -> bool:
    """Tell whether transformers knows an image-text model of a type, which is not Monkey's."""
    # Before the list is read: for that, transformers imports the configurations of all its models.
    if model_type in (None, MonkeyConfig.model_type):
        return False
    registered = {config.model_type for config in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING}
    return model_type in registered


def _type_on_hub(name: str | Path) -> str | None:
    """Return the type of a model on the hub; None where no hub has one of that name."""
    if not _may_be_on_hub(name):
        return None
    hub.go_offline_if_unreachable(name)
    try:
        fields, _ = PreTrainedConfig.get_config_dict(str(name))
    except (OSError, ValueError):  # no such repository, or no hub
        return None
    return fields.get("model_type")


def load(
    name: str | Path,
    grid: Any = None,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    device_map: str | dict[str, Any] | None = None,
    bits: Bits | None = None,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a raised model, or raise a base to a grid, with adapters that are not trained.

    Args:
        name: folder of a raised model; or folder or name of a base.
        grid: that a base is raised to.
        device, dtype, device_map, bits: as in `inference.load_model`.

    Raises:
        FileNotFoundError: there is no such base.
        ValueError: the base cannot be raised, or a file is broken.
    """
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    # bitsandbytes quantises while weights are loaded, so it must know the device then.
    if device_map is not None or bits is not None:
        options["device_map"] = device_map or {"": device}

    if is_raised(name):
        model, processor = load_raised(name, bits=bits, **options)
    else:
        base, processor = load_base(name, bits, **options), load_base_processor(name)
        model, processor = raise_resolution(base, processor, grid)
    if "device_map" not in options:
        model = model.to(device)
        if model.device.type == "cpu" and dtype is None:
            model = cpu.to_fastest_dtype(model)
    return model, processor
