"""Turn what a training run has saved into a model: a checkpoint of a run, or its trained weights alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from torch.distributed import checkpoint as sharded
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from monkeylib import resources, runs
from monkeylib.checkpoints import convert, loading, peft, weight_files
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.processing import MonkeyProcessor
from monkeylib.profiles import Profile, build, trainable
from monkeylib.raising.loading import is_raised
from monkeylib.training import checkpointing, fingerprint

Layout = Literal["monkeylib", "released", "peft"]


def is_from_training(path: str | Path) -> bool:
    """Return whether a path is a training run, a checkpoint of one, or a folder of trained weights alone.

    A raised model may have some, too, but is complete.
    """
    path = resources.to_path(path)
    if is_raised(path):
        return False
    return _is_run(path) or path.suffix == ".ckpt" or (path / trainable.TRAINED_WEIGHTS).is_file()


def _is_run(path: Path) -> bool:
    """Return whether a path is the folder of a training run that has saved something."""
    if not (path / checkpointing.FOLDER).is_dir():
        return False
    manifest = runs.read_manifest(path)
    return manifest is not None and manifest.kind == fingerprint.KIND


def convert_training(
    source: str | Path, target: str | Path, to: Layout = "monkeylib", which: str | None = None
) -> None:
    """Write a model of what a training run has saved, in one of the layouts.

    Args:
        source: folder of a run, finished or not, a checkpoint in it, or a folder of trained weights alone.
        target: new folder.
        to: "monkeylib" and "released" write all weights, with the language model's LoRA merged. "peft" writes
            the LoRA alone: of each tile, and of the language model.
        which: checkpoint of a run: "last", "best", or the number of a step. By default the trained model of
            a finished run, and the last checkpoint of another one.

    Raises:
        FileNotFoundError: there is no such checkpoint, or the base model is missing.
        ValueError: the checkpoint cannot be read, or has nothing that the layout can hold.
        FileExistsError: `target` holds something already.
    """
    source, target = resources.to_path(source), resources.to_path(target)
    path = _choose(source, which)
    require_not_raised(path)

    # Refused before anything is loaded.
    with weight_files.create_folder(target) as folder:
        model, processor = _load(path)
        if to == "monkeylib":
            trainable.save_complete(model, processor, folder)
        elif to == "peft":
            _save_lora(model, folder)
        else:
            complete = folder / "monkeylib"
            trainable.save_complete(model, processor, complete)
            convert.convert_to_released(complete, folder / "released")
            _replace_by_content(folder, folder / "released", complete)


def require_not_raised(folder: Path) -> None:
    """Check that a folder is not that of a raised model, which needs no conversion.

    Raises:
        ValueError: it is.
    """
    if is_raised(folder):
        raise ValueError(
            f"{resources.display_path(folder)} is a raised model, whose adapters are in peft's format "
            "already: there is nothing to convert"
        )


def _choose(source: Path, which: str | None) -> Path:
    """Return the checkpoint or the folder of a model that is meant.

    Raises: as `convert_training`.
    """
    run = resources.display_path(source)
    if not _is_run(source):
        if which is not None:
            raise ValueError(f"{run} is no folder of a run, whose checkpoint {which} could be chosen")
        return source

    # A run that is trained further still has the model of its earlier end.
    is_finished = runs.read_manifest(source).finished
    if which is None and is_finished and (source / "model").is_dir():
        return source / "model"

    saved = checkpointing.list_checkpoints(source)
    if which in (None, "last"):
        path = checkpointing.find_last_checkpoint(source)
    elif which == "best":
        path = checkpointing.find_best_checkpoint(source)
    elif which.isdecimal():
        path = checkpointing.checkpoint_path(source, int(which))
    else:
        raise ValueError(f"there is no checkpoint {which!r}: choose last, best or the number of a step")

    if path is None or not path.exists():
        names = ", ".join(path.name for path in saved) or "none"
        raise FileNotFoundError(f"{run} has no checkpoint {which or 'yet'}; it has {names}")
    return path


def _load(path: Path) -> tuple[MonkeyForConditionalGeneration, MonkeyProcessor]:
    """Load a checkpoint, or a folder of a model, with the language model's LoRA beside its projections."""
    if path.suffix == ".ckpt":
        return load_checkpoint(path)
    if (path / trainable.TRAINED_WEIGHTS).is_file():
        return trainable.load_trained(path, quantized=False)
    return loading.load_checkpoint(path), loading.load_processor(path)


def load_checkpoint(path: str | Path) -> tuple[MonkeyForConditionalGeneration, MonkeyProcessor]:
    """Load the model of a run's checkpoint, on the base that its profile names, and the processor.

    Raises:
        FileNotFoundError: there is no such checkpoint, or no base model.
        ValueError: the checkpoint cannot be read.
    """
    path = resources.to_path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint at {resources.display_path(path)}")
    if damage := checkpointing.find_damage(path):
        raise ValueError(f"the checkpoint {resources.display_path(path)} cannot be used, since {damage}")

    content = _read_sharded(path) if path.is_dir() else _read_file(path)
    if "base" in json.loads(content["profile"]):
        raise ValueError(
            f"the checkpoint {resources.display_path(path)} is of a raised model: go on with its run, which "
            "writes a folder that monkeylib.load_raised reads"
        )
    trained_profile = Profile.model_validate_json(content["profile"])
    # A quantised language model trains by LoRA, which can be merged into all of its bits only.
    profile = trained_profile.with_training(language_model_bits=None)

    processor = build.build_processor(profile)
    model = trainable.build_trainable(profile, processor)
    _load_weights(model, content["state_dict"], path)
    trainable.require_same_frozen(model, trained_profile, content.get(trainable.FROZEN_DIGEST), path)
    return model.eval(), processor


def _read_file(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


def _read_sharded(folder: Path) -> dict[str, Any]:
    """Read the weights that several processes have saved, without the state of the optimiser."""
    reader = sharded.FileSystemReader(folder)
    state = {}
    for name, entry in reader.read_metadata().state_dict_metadata.items():
        if name.startswith("state_dict.") and isinstance(entry, TensorStorageMetadata):
            state[name] = torch.empty(entry.size, dtype=entry.properties.dtype)
    sharded.load(state, storage_reader=reader, no_dist=True)

    content = torch.load(folder / "meta.pt", map_location="cpu", weights_only=True)
    content["state_dict"] = {name.removeprefix("state_dict."): tensor for name, tensor in state.items()}
    return content


def _load_weights(model: MonkeyForConditionalGeneration, state: dict[str, torch.Tensor], path: Path) -> None:
    """Load a checkpoint's weights into a model, which has the frozen ones already.

    Raises:
        ValueError: the checkpoint is of another model.
    """
    weights = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}

    differing = trained - weights.keys()
    differing |= {name for name, tensor in weights.items() if shapes.get(name) != tensor.shape}
    if differing:
        raise ValueError(
            f"the checkpoint {resources.display_path(path)} and its profile differ in {min(differing)}: "
            "the base model is not the one that was trained"
        )
    model.load_state_dict(weights, strict=False)


def _save_lora(model: MonkeyForConditionalGeneration, folder: Path) -> None:
    """Write the LoRA of each tile, and of the language model, each in a folder in peft's format.

    Raises:
        ValueError: the model has neither.
    """
    has_language_model_lora = trainable.has_language_model_lora(model)
    if model.config.lora_count:
        peft.write_lora(model.state_dict(), model.config, folder)
    elif not has_language_model_lora:
        raise ValueError("this model was trained without LoRA, and peft's layout holds nothing else")

    if has_language_model_lora:
        model.language_model.save_pretrained(folder / "language-model")


def _replace_by_content(folder: Path, source: Path, obsolete: Path) -> None:
    """Move the files of a subfolder up, and remove another one."""
    shutil.rmtree(obsolete)
    for file in list(source.iterdir()):
        file.rename(folder / file.name)
    source.rmdir()
