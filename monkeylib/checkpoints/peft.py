"""The adapters in peft's file format: a folder `tile-0`, `tile-1`, ... per tile, which peft loads as a LoRA.

peft multiplies by alpha / rank where Monkey learns a scale, so alpha is written as scale x rank. The module
names are those of our vision transformer, but for one: the adapter beside the MLP reads the un-normalised
residual stream and is added to the MLP's output, so it belongs to a linear layer `blocks.<i>.mlp_bypass` of
zeros, from the residual stream before `ln_2` (or, where the configuration's `mlp_lora_input` says so, from
what that norm makes of it) to the block's output. Whoever loads a tile elsewhere adds it.

For an encoder of transformers (CLIP, DINOv2, SigLIP) they are the names in that encoder: `q_proj`, `k_proj`,
`v_proj` and the output projection of each block's attention, and again `mlp_bypass` in the block itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from monkeylib import resources
from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration, MonkeyVisionConfig
from monkeylib.model.hf_vision import layout_of

_BYPASS = "mlp_bypass"
# The adapters of a block of our own ViT -> the module that peft sees in it.
_OWN = {
    "attention.qkv_lora": "attention.qkv",
    "attention.out_lora": "attention.out",
    "mlp_lora": _BYPASS,
}
_WEIGHTS = "adapter_model.safetensors"


def places(config: MonkeyConfig) -> dict[str, str]:
    """The banks of adapters of a model's encoder -> the modules that peft sees, relative to our ViT or to the
    encoder of transformers."""
    blocks = range(config.vision_config.num_hidden_layers)
    if isinstance(config.vision_config, MonkeyVisionConfig):
        return {f"blocks.{i}.{ours}": f"blocks.{i}.{module}" for i in blocks for ours, module in _OWN.items()}
    layout = layout_of(config.vision_config)
    inside = {name: f"{layout.attention}.{name[0]}_proj" for name in ("query", "key", "value")}
    inside |= {"out": f"{layout.attention}.{layout.out}", "mlp": _BYPASS}
    return {
        f"lora.{i}.{ours}": f"{layout.blocks}.{i}.{module}" for i in blocks for ours, module in inside.items()
    }


def write(tensors: Mapping[str, torch.Tensor], config: MonkeyConfig, target: Path) -> list[Path]:
    """Write the adapters of each tile position as a folder of peft's; returns the folders.

    Args:
        tensors: our state dict, or its adapters alone.
        config: the model's.
        target: new folder for the folders of the tiles.

    Raises:
        ValueError: the model has no adapters.
        FileExistsError: `target` holds something already.
    """
    if not config.lora_count:
        raise ValueError(f"a model of lora_mode {config.lora_mode!r} has no adapters to write")
    with resources.create_folder(target) as folder:
        for tile in range(config.lora_count):
            weights, scales = _of_tile(tensors, config, tile)
            place = folder / f"tile-{tile}"
            place.mkdir()
            save_file(weights, place / _WEIGHTS, metadata={"format": "pt"})
            _peft_config(config, scales).save_pretrained(place)
    return [target / f"tile-{tile}" for tile in range(config.lora_count)]


def read(folder: Path, model: MonkeyForConditionalGeneration, tile: int) -> None:
    """Put the adapters of one peft folder in the place of a model's adapters for one tile.

    Raises:
        FileNotFoundError: the folder holds no adapter.
        ValueError: its tensors are not those of this model's adapters, or the model has none for that tile.
    """
    if not 0 <= tile < model.config.lora_count:
        raise ValueError(
            f"the model has adapters for {model.config.lora_count} tiles, there is no tile {tile}"
        )
    for name in (_WEIGHTS, "adapter_config.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"there is no {name} in {folder}: expected a folder that peft has saved")
    weights, scale_of = load_file(folder / _WEIGHTS), _scales(folder)
    banks = {module: model.vision.get_submodule(bank) for bank, module in places(model.config).items()}
    shapes = {}
    for module, bank in banks.items():
        key = _key(module)
        shapes |= {
            f"{key}.lora_A.weight": bank.lora_A.shape[1:],
            f"{key}.lora_B.weight": bank.lora_B.shape[1:],
        }
    if unlike := sorted(set(weights) ^ set(shapes)) or [k for k in shapes if weights[k].shape != shapes[k]]:
        raise ValueError(
            f"{folder / _WEIGHTS} and the adapters of this model differ in {unlike[0]} (and "
            f"{len(unlike) - 1} more): load an adapter that was written for the same model"
        )
    with torch.no_grad():
        for module, bank in banks.items():
            bank.lora_A[tile] = weights[f"{_key(module)}.lora_A.weight"]
            bank.lora_B[tile] = weights[f"{_key(module)}.lora_B.weight"]
            bank.scaling[tile] = scale_of(module, bank.lora_A.shape[1])


def _of_tile(
    tensors: Mapping[str, torch.Tensor], config: MonkeyConfig, tile: int
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The weights of a tile under peft's keys, and the scale of each module."""
    weights, scales = {}, {}
    for bank, module in places(config).items():
        weights[f"{_key(module)}.lora_A.weight"] = tensors[f"vision.{bank}.lora_A"][tile].contiguous()
        weights[f"{_key(module)}.lora_B.weight"] = tensors[f"vision.{bank}.lora_B"][tile].contiguous()
        scales[module] = tensors[f"vision.{bank}.scaling"][tile].item()
    return weights, scales


def _peft_config(config: MonkeyConfig, scales: Mapping[str, float]) -> Any:
    from peft import LoraConfig

    ranks = {name: config.mlp_rank if name.endswith(_BYPASS) else config.attention_rank for name in scales}
    first = next(name for name in scales if name.endswith(f".0.{_BYPASS}")).removesuffix(_BYPASS)
    targets = [name.removeprefix(first) for name in scales if name.startswith(first)]
    return LoraConfig(
        r=config.attention_rank,
        lora_alpha=config.attention_rank,
        rank_pattern={_BYPASS: config.mlp_rank},
        alpha_pattern={name: scale * ranks[name] for name, scale in scales.items()},
        target_modules=sorted(targets),
        lora_dropout=config.lora_dropout,
        inference_mode=True,
    )


def _scales(folder: Path) -> Any:
    """A function from module and rank to the scale, as peft computes it from the folder's configuration."""
    from peft import LoraConfig
    from peft.utils.other import get_pattern_key

    saved = LoraConfig.from_pretrained(str(folder))
    if saved.use_dora or saved.use_rslora:
        raise ValueError(f"{folder} holds a DoRA or rank-stabilised LoRA: Monkey's adapters are plain LoRA")

    def scale(module: str, rank: int) -> float:
        key = get_pattern_key(saved.alpha_pattern.keys(), module)
        return saved.alpha_pattern.get(key, saved.lora_alpha) / rank

    return scale


def _key(module: str) -> str:
    return f"base_model.model.{module}"
