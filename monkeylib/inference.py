"""Inference: load a checkpoint, or a raised model, that answers questions about images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from monkeylib import resources
from monkeylib.checkpoints.hub import fetch_model
from monkeylib.checkpoints.loading import load_checkpoint, load_processor
from monkeylib.errors import first_line
from monkeylib.model import cpu
from monkeylib.monkey import Monkey
from monkeylib.processing import GridInput
from monkeylib.profiles import build, trainable
from monkeylib.raised_monkey import RaisedMonkey
from monkeylib.raising import loading
from monkeylib.tiling import as_grid

__all__ = ["Monkey", "RaisedMonkey", "load_model"]


def load_model(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: str | dict[str, Any] | None = None,
    bits: Literal[4, 8] | None = None,
    grid: GridInput | None = None,
    exact: bool | None = None,
) -> Monkey:
    """Load a checkpoint: a folder, or a model of a hub.

    Args:
        path: a folder written by `save_pretrained` of model and processor, one of trained weights alone, or
            one in the layout of the released Monkey or Qwen-VL; or, where there is no such folder, the name
            of one on a hub, such as "owner/name". Also a raised model (`raising.load_raised`), and with a
            `grid` any model of transformers that can be raised.
        device: where to run; a GPU if there is one.
        dtype: of the weights, also as a text such as "bfloat16". If not given, as saved; on a CPU that
            multiplies the saved one more slowly than float32, weights become float32 where they fit.
        device_map: spread the model over devices as transformers does ("auto"), instead of `device`. Trained
            weights alone take none, and no `bits`.
        bits: quantise the language model to 4 or 8 bits with bitsandbytes; ViT, LoRA and resampler stay as
            they are.
        grid: another grid for images where none is named (`Monkey.with_grid`). A model of transformers is
            raised to it, with adapters that are not trained.
        exact: False prepares images in bytes, in about a third of the time (`MonkeyImageProcessor`), True as
            the released code does; by default as saved. A raised model has a processor of its own.

    Raises:
        FileNotFoundError: the folder is missing or holds no checkpoint.
        ModuleNotFoundError: `bits` without bitsandbytes.
        ValueError: `bits` is neither 4 nor 8, there is no such device or dtype, the folder is that of a run
            or does not take an option, or the checkpoint is broken: cut off, incomplete, of another model,
            not finite. The message names file and key.
    """
    if device is not None and device_map is not None:
        raise ValueError(
            f"device={str(device)!r} puts the model on one device and device_map={device_map!r} spreads it: "
            "give one of them"
        )
    device = _find_device(device)
    dtype = None if dtype is None else _find_dtype(dtype)

    is_base = loading.may_be_raised(path)
    if is_base and grid is None and not loading.is_raised(path):
        raise ValueError(
            f"{path} is a model of transformers that is not raised: give it a grid, such as 2x2, to raise it"
        )
    if is_base or loading.is_raised(path):
        if exact is not None:
            raise ValueError(
                f"{path} is a raised model, whose base's processor prepares the images: leave exact out"
            )
        model, processor = loading.load(path, grid, device, dtype, device_map, bits)
        return RaisedMonkey(model.eval(), processor, None if grid is None else as_grid(grid))

    monkey = _load_checkpoint(fetch_model(path), device, dtype, device_map, bits)
    if exact is not None:
        monkey.processor.image_processor.exact = exact
        monkey.processor.image_processor.check_normalisation(monkey.model.config.vision_config.model_type)
    return monkey if grid is None else monkey.with_grid(grid)


def _load_checkpoint(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | None,
    device_map: str | dict[str, Any] | None,
    bits: Literal[4, 8] | None,
) -> Monkey:
    """Load a checkpoint of Monkey; arguments as in `load_model`."""
    if (folder / "checkpoints").is_dir() or folder.suffix == ".ckpt":
        raise ValueError(
            f"{folder} is the folder of a training run, not a model: "
            + (f"name {folder / 'model'}" if (folder / "model").is_dir() else _convert_first(folder))
        )

    # Trained weights alone, on the base model that their profile names.
    if (folder / trainable.TRAINED_WEIGHTS).is_file():
        if device_map is not None or bits is not None:
            raise ValueError(
                f"{folder} holds trained weights alone, which load without device_map and bits: "
                + _convert_first(folder)
            )
        model, processor = trainable.load_trained(folder)
        if not getattr(model, "is_quantized", False):  # bitsandbytes has placed a quantised model already
            model = model.to(device, dtype)
            if device.type == "cpu" and dtype is None:
                model = cpu.to_fastest_dtype(model)
        elif dtype is not None:
            raise ValueError(f"{folder} has a quantised language model, whose dtype is fixed: give none")
        return Monkey(model.eval(), processor)

    # A complete model, in monkeylib's or the released layout.
    options: dict[str, Any] = {}
    if bits is not None:
        options["quantization_config"] = build.quantization_config(bits)
    # bitsandbytes quantises while the weights are loaded, so it must know the device then.
    if device_map is not None or bits is not None:
        options["device_map"] = device_map or {"": device}

    processor = load_processor(folder)
    model = load_checkpoint(folder, dtype, **options)
    if "device_map" not in options:
        model = model.to(device)
        if device.type == "cpu" and dtype is None:
            model = cpu.to_fastest_dtype(model)
    return Monkey(model.eval(), processor)


def _find_device(device: str | torch.device | None) -> torch.device:
    """Return a device by its name, by default a GPU if there is one.

    Raises:
        ValueError: there is none of that name.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    try:
        existing = torch.device(device)
        torch.empty(1, device=existing)
    # torch raises an AssertionError where it was built without a kind of device.
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(
            f"the device {device!r} is not there ({first_line(error)}): expected a name such as cpu, cuda or "
            "cuda:1"
        ) from error
    return existing


def _find_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return a floating-point dtype that may be given by its name.

    Raises:
        ValueError: it is none.
    """
    named = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(named, torch.dtype) or not named.is_floating_point:
        raise ValueError(f"weights have no dtype {dtype!r}: expected float32, bfloat16 or float16")
    return named


def _convert_first(folder: Path) -> str:
    """Return what makes a complete model of what a training run has saved, to end a sentence."""
    return f"make a complete model of it with `monkeylib convert {resources.shell_path(folder)} NEW_FOLDER`"
