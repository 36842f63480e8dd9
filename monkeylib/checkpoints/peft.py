"""Per-tile LoRA in peft's file format: folders `tile-0`, `tile-1`, ..., each of which peft loads as one LoRA.

A LoRA of the global view is a folder `global-view`.

Where grids follow the shapes of images, the folders are called after row and column: `tile-0-0`, `tile-0-1`.

peft multiplies by `lora_alpha / r` where Monkey learns a scaling, so `lora_alpha` is written as scaling x
rank. The names of the modules are those of monkeylib's ViT, with one exception. The LoRA beside the MLP
reads the residual stream before its norm and is added to the MLP's output. It belongs to a linear layer
`blocks.<i>.mlp_bypass` of zeros, from the residual stream before `ln_2` to the block's output (or from what
that norm gives, where the configuration's `mlp_lora_input` says so). To load a tile elsewhere, add
that layer.

For a ViT of transformers (CLIP, DINOv2, SigLIP) the names are those in that ViT: `q_proj`, `k_proj`,
`v_proj` and the output projection of each block's attention, and again `mlp_bypass` in the block itself.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from monkeylib import resources
from monkeylib.checkpoints.weight_files import create_folder, explain_broken, read_finite
from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration, MonkeyVisionConfig
from monkeylib.model.hf_vision import layout_of

if TYPE_CHECKING:
    from peft import LoraConfig

_BYPASS = "mlp_bypass"
_WEIGHTS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"
# The LoRAs of a block of monkeylib's ViT -> the modules that peft sees in it.
_MODULES_IN_BLOCK = {
    "attention.qkv_lora": "attention.qkv",
    "attention.out_lora": "attention.out",
    "mlp_lora": _BYPASS,
}


def peft_modules(config: MonkeyConfig) -> dict[str, str]:
    """Map each LoRA of a model's vision backbone to the module that peft sees.

    Returns:
        Names of `TileLoRA` modules in `model.vision` -> names of modules in monkeylib's ViT, or in the ViT of
        transformers.
    """
    modules = {}
    for block in range(config.vision_config.num_hidden_layers):
        if isinstance(config.vision_config, MonkeyVisionConfig):
            for lora, module in _MODULES_IN_BLOCK.items():
                modules[f"blocks.{block}.{lora}"] = f"blocks.{block}.{module}"
            continue

        layout = layout_of(config.vision_config)
        place = f"{layout.blocks}.{block}"
        modules[f"lora.{block}.query"] = f"{place}.{layout.attention}.q_proj"
        modules[f"lora.{block}.key"] = f"{place}.{layout.attention}.k_proj"
        modules[f"lora.{block}.value"] = f"{place}.{layout.attention}.v_proj"
        modules[f"lora.{block}.out"] = f"{place}.{layout.attention}.{layout.out}"
        modules[f"lora.{block}.mlp"] = f"{place}.{_BYPASS}"

    # Where the rank is 0 there is no LoRA.
    return {lora: module for lora, module in modules.items() if _rank(config, module)}


def _rank(config: MonkeyConfig, module: str) -> int:
    """Return the rank of the LoRA beside a module."""
    return config.mlp_rank if module.endswith(_BYPASS) else config.attention_rank


def write_lora(tensors: Mapping[str, torch.Tensor], config: MonkeyConfig, target: str | Path) -> list[Path]:
    """Write the LoRA of each tile position as a folder in peft's format.

    Args:
        tensors: state dict of a model, or its LoRA alone.
        config: of the model.
        target: new folder for the folders of the tiles.

    Returns:
        The folders of the tiles.

    Raises:
        ValueError: the model has no LoRA.
        FileExistsError: `target` holds something already.
    """
    target = resources.to_path(target)
    if not config.lora_count:
        raise ValueError(f"a model of lora_mode {config.lora_mode!r} has no LoRA to write")

    if config.max_tiles is not None and config.lora_mode == "per_tile":
        names = [f"tile-{row}-{col}" for row, col in config.lora_positions]
    else:
        names = [f"tile-{tile}" for tile in range(config.lora_count)]
    if config.lora_on_global_view and config.lora_mode == "per_tile":
        names[config.tile_lora_count :] = ["global-view"]

    with create_folder(target) as folder:
        # Tile i of the stacked tensors becomes the folder tile-i.
        for tile in range(config.lora_count):
            weights: dict[str, torch.Tensor] = {}
            scalings: dict[str, float] = {}
            for lora, module in peft_modules(config).items():
                weights[_key(module, "A")] = tensors[f"vision.{lora}.lora_A"][tile].contiguous()
                weights[_key(module, "B")] = tensors[f"vision.{lora}.lora_B"][tile].contiguous()
                scalings[module] = tensors[f"vision.{lora}.scaling"][tile].item()

            tile_folder = folder / names[tile]
            tile_folder.mkdir()
            save_file(weights, tile_folder / _WEIGHTS, metadata={"format": "pt"})
            _build_peft_config(config, scalings).save_pretrained(tile_folder)

    return [target / name for name in names]


def read_lora(folder: str | Path, model: MonkeyForConditionalGeneration, tile: int) -> None:
    """Read one folder in peft's format into the LoRA of one tile position of a model.

    Available from Python only: no command of `monkeylib` reads LoRA back.

    Raises:
        FileNotFoundError: the folder holds no LoRA.
        ValueError: its files are broken or not finite, its tensors do not fit this model, or the model has
            no LoRA for that tile.
    """
    folder = resources.to_path(folder)
    if not 0 <= tile < model.config.lora_count:
        raise ValueError(f"the model has LoRA for {model.config.lora_count} tiles, there is no tile {tile}")
    for name in (_WEIGHTS, _CONFIG):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"there is no {name} in {folder}: expected a folder that peft has saved")

    weights = read_finite(folder / _WEIGHTS)
    scaling_of = _read_scalings(folder)
    loras = {module: model.vision.get_submodule(lora) for lora, module in peft_modules(model.config).items()}

    # Compare names first, then shapes, before anything is copied.
    shapes: dict[str, torch.Size] = {}
    for module, lora in loras.items():
        shapes[_key(module, "A")] = lora.lora_A.shape[1:]
        shapes[_key(module, "B")] = lora.lora_B.shape[1:]

    differing = sorted(weights.keys() ^ shapes.keys())
    if not differing:
        differing = [key for key, shape in shapes.items() if weights[key].shape != shape]
    if differing:
        raise ValueError(
            f"{folder / _WEIGHTS} and the LoRA of this model differ in {differing[0]} (and "
            f"{len(differing) - 1} more): load a LoRA that was written for the same model"
        )

    with torch.no_grad():
        for module, lora in loras.items():
            rank = lora.lora_A.shape[1]
            lora.lora_A[tile] = weights[_key(module, "A")]
            lora.lora_B[tile] = weights[_key(module, "B")]
            lora.scaling[tile] = scaling_of(module, rank)


def _build_peft_config(config: MonkeyConfig, scalings: Mapping[str, float]) -> "LoraConfig":
    """Build peft's configuration of one tile, from the scaling of each module."""
    from peft import LoraConfig

    # peft multiplies by alpha / rank, so alpha = scaling * rank gives the learned scaling.
    alphas = {}
    for module, scaling in scalings.items():
        alphas[module] = scaling * _rank(config, module)

    # The modules of the first block, relative to it: peft finds them in every block.
    blocks = "blocks"
    if not isinstance(config.vision_config, MonkeyVisionConfig):
        blocks = layout_of(config.vision_config).blocks
    first_block = f"{blocks}.0."
    targets = [module.removeprefix(first_block) for module in scalings if module.startswith(first_block)]

    # peft takes no rank of 0, and nothing has it then.
    rank = config.attention_rank or config.mlp_rank
    return LoraConfig(
        r=rank,
        lora_alpha=rank,
        rank_pattern={_BYPASS: config.mlp_rank} if config.mlp_rank else {},
        alpha_pattern=alphas,
        target_modules=sorted(targets),
        lora_dropout=config.lora_dropout,
        inference_mode=True,
    )


def _read_scalings(folder: Path) -> Callable[[str, int], float]:
    """Return a function from module and rank to the scaling, as peft computes it for this folder."""
    from peft import LoraConfig
    from peft.utils.other import get_pattern_key

    with explain_broken(folder / _CONFIG):
        peft_config = LoraConfig.from_pretrained(str(folder))
    if peft_config.use_dora or peft_config.use_rslora:
        raise ValueError(f"{folder} holds a DoRA or rank-stabilised LoRA: Monkey's is plain LoRA")

    def scaling_of(module: str, rank: int) -> float:
        # A module without a pattern has the alpha of the whole LoRA.
        pattern = get_pattern_key(peft_config.alpha_pattern.keys(), module)
        return peft_config.alpha_pattern.get(pattern, peft_config.lora_alpha) / rank

    return scaling_of


def _key(module: str, factor: str) -> str:
    """Return peft's key of factor "A" or "B" of a module's LoRA."""
    return f"base_model.model.{module}.lora_{factor}.weight"
