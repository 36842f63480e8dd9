"""Files of a raised model: what it has learned, without its base.

    monkey.json                 how the base was raised (`RaisingSettings`)
    tile-0/, tile-1/, ...       the adapters of each tile in peft's format, loadable by peft alone
    trained.safetensors         other weights that were trained, such as the projector's
    README.md                   a card

A base that is a folder is named by its path in `monkey.json` and, as peft does, in the configurations of the
adapters; what goes to a hub holds no path (`public_settings`).

`model.save_pretrained` of a raised model writes all weights and their configuration beside them, as Trainer
needs it to go on. transformers would load these as the base, without the adapters and without an error; here
the configuration names weights that it refuses.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from monkeylib.checkpoints import hub
from monkeylib.checkpoints.weight_files import create_folder, read_finite
from monkeylib.errors import shorten
from monkeylib.raising.adapters import ADAPTERS, layer_adapters
from monkeylib.raising.settings import RaisingSettings
from monkeylib.resources import atomic_write
from monkeylib.settings_files import read_json
from monkeylib.tiling import Grid

# transformers reads its weights from the file of this field, and shows its text where it is none.
_REFUSED_WEIGHTS = "this is a raised model, load it by monkeylib.load_raised"
_MODEL_CONFIG = "config.json"
SETTINGS, TRAINED = "monkey.json", "trained.safetensors"
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"

_CARD = """---
{base_model}library_name: peft
tags: [monkey, lora, high-resolution]
---

# {family}, raised to {grids}

Per-tile LoRA (mode `{mode}`) for the vision tower of {base}. An image is cut into tiles of {tile_size}
pixels, and a global view stands behind them. {adapters}

With monkeylib:

    raised = monkeylib.load_raised(FOLDER_OR_ID)
    inputs = raised.processor(images=image, text=prompt, return_tensors="pt")
    raised.model.generate(**inputs)

{peft}{trained}
"""
_PEFT = """With peft alone, on the untouched base: load each folder as an adapter of its name, and name one
adapter a view, in the order of the views, `"__base__"` for the global view. An image of {rows} x {cols}
tiles:

    model = PeftModel.from_pretrained(base, "{first}", adapter_name="{first}")
{others}    model(**inputs, adapter_names=[{names}, "__base__"])

(In inference only, and not for Pixtral's tower, which reads all views as one row.)"""
_LOAD_OTHERS = """    for name in [{names}]:
        model.load_adapter(name, adapter_name=name)
"""
_TRAINED_NOTE = """ `trained.safetensors` holds other weights that were
trained: load them into the base first."""


def write_raised(model: nn.Module, settings: RaisingSettings, folder: Path) -> None:
    """Write what a raised model has learned.

    Args:
        model: raised; weights of the base that require a gradient count as trained.
        settings: how it was raised.
        folder: new.

    Raises:
        FileExistsError: `folder` holds something already.
        ValueError: the adapters have been merged into the weights.
        OSError: the files cannot be written.
    """
    with create_folder(folder) as target:
        write_files(model, settings, target)


def public_settings(settings: RaisingSettings, base: str | None = None) -> RaisingSettings:
    """Return how a model was raised, as others may read it: without a folder of this machine.

    The name that a folder's own configuration may hold isn't taken: it is that of the model before training.

    Args:
        settings: of the model.
        base: name of its base on a hub, by default the one it was loaded by. A base that was never saved has
            none.

    Raises:
        ValueError: the base is a folder and `base` is not given, or `base` is no name of a hub.
    """
    if base is None and (not settings.base or hub.is_hub_name(settings.base)):
        return settings
    if base is None:
        raise ValueError(
            f"the base of this model is at {settings.base}, where others cannot load it: pass "
            f'base="owner/name", the name of the same weights on a hub{_origin(Path(settings.base))}'
        )
    if not isinstance(base, str) or not hub.is_hub_name(base):
        raise ValueError(
            f"base is {shorten(base)}: expected the name of a model on a hub, such as "
            "llava-hf/llava-1.5-7b-hf"
        )
    return replace(settings, base=base)


def _origin(folder: Path) -> str:
    """Return what a base's configuration says of where it came from, as the end of a sentence."""
    path = folder / _MODEL_CONFIG
    name = read_json(path).get("_name_or_path") if path.is_file() else None
    if not isinstance(name, str) or not hub.is_hub_name(name):
        return ""
    return f" (its {_MODEL_CONFIG} says that it came from {name})"


def write_files(model: nn.Module, settings: RaisingSettings, folder: Path) -> None:
    """Write what a raised model has learned into a folder that may hold an earlier state of it."""
    if settings.adapter_names and not layer_adapters(model):
        raise ValueError(
            "the adapters are merged into the weights: save the model that `merge` returned, by its own "
            "`save_pretrained`"
        )

    for number, name in enumerate(settings.adapter_names):
        weights, scalings = adapter_tensors(model, number)
        _write_tensors(folder / name / _WEIGHTS, weights)
        _write_text(folder / name / _CONFIG, _as_json(peft_config(settings, scalings)))

    trained = trained_tensors(model)
    if trained:
        _write_tensors(folder / TRAINED, trained)
    _write_text(folder / "README.md", card(settings, bool(trained)))
    # Last, since it makes a raised model of the folder.
    _write_text(folder / SETTINGS, _as_json(settings.to_json()))


def holds_other_model(folder: Path) -> bool:
    """Tell whether a folder holds a model of transformers that is not raised."""
    path = folder / _MODEL_CONFIG
    return path.exists() and read_json(path).get("transformers_weights") != _REFUSED_WEIGHTS


def mark_config(folder: Path) -> None:
    """Have transformers refuse a folder as the base's: its configuration names weights that are none."""
    content = read_json(folder / _MODEL_CONFIG)
    _write_text(folder / _MODEL_CONFIG, _as_json({**content, "transformers_weights": _REFUSED_WEIGHTS}))


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _as_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def card(settings: RaisingSettings, has_trained: bool) -> str:
    """Return the card of a folder: what it is, and how to load it with and without monkeylib."""
    # No folder of this machine: a card is for everybody, and the hub takes its own names only.
    named = hub.is_hub_name(settings.base)
    return _CARD.format(
        base_model=f"base_model: {settings.base}\n" if named else "",
        base=f"`{settings.base}`" if named else f"a {settings.family}",
        family=settings.family,
        grids=settings.grids,
        mode=settings.mode,
        tile_size=settings.tile_size,
        adapters=_where_adapters_lie(settings),
        peft=_with_peft_alone(settings) if settings.adapter_names else "",
        trained=_TRAINED_NOTE if has_trained else "",
    )


def _where_adapters_lie(settings: RaisingSettings) -> str:
    if not settings.adapter_names:
        return "It has no adapters."
    if settings.mode == "shared":
        return "The adapters of all tiles are in the folder `tile-0`."
    if settings.grids.max_tiles is not None:
        return "The adapters of the tile in row r and column c, from 0 on, are in the folder `tile-r-c`."
    return "The adapters of tile i, counted row by row from 0 on, are in the folder `tile-i`."


def _with_peft_alone(settings: RaisingSettings) -> str:
    """Return how peft reads the adapters, for an image of the first grid."""
    grids = settings.grids
    if grids.max_tiles is None:
        grid = grids.grids[0]
    else:
        grid = Grid(2, 2) if grids.max_tiles >= 4 else Grid(1, grids.max_tiles)
    numbers = [settings.adapter_of_tile[tile] for tile in grids.tile_numbers(grid)]
    names = [settings.adapter_names[number] for number in numbers]

    first, *others = settings.adapter_names
    return _PEFT.format(
        rows=grid.rows,
        cols=grid.cols,
        first=first,
        others=_LOAD_OTHERS.format(names=_quoted(others)) if others else "",
        names=_quoted(names),
    )


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def adapter_tensors(model: nn.Module, number: int) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Return the weights of one adapter by peft's keys, and its scaling beside each layer."""
    weights: dict[str, torch.Tensor] = {}
    scalings: dict[str, float] = {}
    for layer, adapters in layer_adapters(model).items():
        adapter = adapters[number]
        weights[_key(layer, "A")] = adapter.lora_A.detach()[0].cpu().contiguous()
        weights[_key(layer, "B")] = adapter.lora_B.detach()[0].cpu().contiguous()
        scalings[layer] = adapter.scaling.item()
    return weights, scalings


def trained_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights beside the adapters that require a gradient."""
    return {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and f".{ADAPTERS}." not in name
    }


def peft_config(settings: RaisingSettings, scalings: Mapping[str, float]) -> dict[str, Any]:
    """Return peft's configuration of one adapter; peft multiplies by `alpha / rank`."""
    rank = max(settings.ranks.values())
    alphas = {layer: scaling * settings.ranks[layer] for layer, scaling in scalings.items()}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": settings.base or None,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": settings.dropout,
        "target_modules": list(settings.ranks),
        "rank_pattern": {layer: own for layer, own in settings.ranks.items() if own != rank},
        "alpha_pattern": {layer: alpha for layer, alpha in alphas.items() if alpha != rank},
        "bias": "none",
        "inference_mode": True,
    }


def read_settings(folder: Path) -> RaisingSettings:
    """Read how a model was raised.

    Raises:
        FileNotFoundError: the folder holds no raised model.
        ValueError: its file is broken; the message names file and field.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no raised model at {folder}: expected a folder with {SETTINGS} and adapters, as "
            "`save` of a raised model writes it"
        )
    try:
        return RaisingSettings.from_json(read_json(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_weights(model: nn.Module, settings: RaisingSettings, folder: Path) -> None:
    """Read what a raised model has learned into a model that was raised in the same way.

    Raises:
        FileNotFoundError: an adapter is missing.
        ValueError: a file is broken or not finite, or its tensors do not fit the model. Nothing is changed
            then.
    """
    assignments = [
        assignment
        for number, name in enumerate(settings.adapter_names)
        for assignment in _read_adapter(model, number, folder / name)
    ]
    if (folder / TRAINED).exists():
        weights = dict(model.named_parameters())
        tensors = read_finite(folder / TRAINED)
        _check_tensors(
            tensors, {name: weights[name].shape for name in tensors if name in weights}, folder / TRAINED
        )
        assignments += [(weights[name], tensor) for name, tensor in tensors.items()]

    with torch.no_grad():
        for parameter, tensor in assignments:
            parameter.copy_(tensor)


def _read_adapter(model: nn.Module, number: int, folder: Path) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the parameters of one adapter with the tensors that a folder holds for them."""
    for name in (_WEIGHTS, _CONFIG):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"there is no {name} in {folder}: expected an adapter in peft's format")

    config = read_json(folder / _CONFIG)
    if config.get("use_dora") or config.get("use_rslora"):
        raise ValueError(
            f"{folder} holds a DoRA or rank-stabilised LoRA: the adapters of tiles are plain LoRA"
        )

    adapters = {layer: module[number] for layer, module in layer_adapters(model).items()}
    shapes = {}
    for layer, adapter in adapters.items():
        shapes[_key(layer, "A")] = adapter.lora_A.shape[1:]
        shapes[_key(layer, "B")] = adapter.lora_B.shape[1:]
    tensors = read_finite(folder / _WEIGHTS)
    _check_tensors(tensors, shapes, folder / _WEIGHTS)

    for layer, adapter in adapters.items():
        rank = adapter.lora_A.shape[1]
        alpha = config.get("alpha_pattern", {}).get(layer, config.get("lora_alpha", rank))
        yield adapter.lora_A, tensors[_key(layer, "A")][None]
        yield adapter.lora_B, tensors[_key(layer, "B")][None]
        yield adapter.scaling, torch.tensor([alpha / rank])


def _check_tensors(tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size], path: Path) -> None:
    differing = sorted(tensors.keys() ^ shapes.keys())
    differing += [name for name in tensors.keys() & shapes.keys() if tensors[name].shape != shapes[name]]
    if differing:
        raise ValueError(
            f"{path} and the raised model differ in {differing[0]} (and {len(differing) - 1} more): load it "
            "with the base that it was saved for"
        )


def _key(layer: str, factor: str) -> str:
    """Return peft's key of factor "A" or "B" of a layer's LoRA."""
    return f"base_model.model.{layer}.lora_{factor}.weight"
