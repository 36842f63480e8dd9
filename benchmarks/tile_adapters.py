"""Per-tile LoRA beside the linear layers of a vision tower of transformers.

* `base`: the tower alone;
* `monkeylib`: raised by `raise_resolution`, each view with the adapter of its tile;
* `peft`: the same adapters, loaded by peft, whose mixed batch gives each view an adapter by name.

The tower has the shape of ViT-B/16 at 224 pixels, with two of its twelve layers, since the share of the
adapters is the same in each; it reads the five views of one image.
"""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from pairing import Pair, Row, Settings, close, compare_time
from peft import PeftModel
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
)

from monkeylib.raising.adapters import layer_adapters
from monkeylib.raising.files import write_raised
from monkeylib.raising.grids import TileGrids
from monkeylib.raising.model import raise_model
from monkeylib.raising.settings import RaisingSettings
from monkeylib.raising.tower import tower_name, try_image

SIDE, PATCH, PLACE, VIEWS = 224, 16, 9, 5
TOKENS = (SIDE // PATCH) ** 2


def build_base(layers: int) -> PreTrainedModel:
    """Return a LLaVA with a tower of ViT-B's width and a language model that costs next to nothing."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=layers,
        num_attention_heads=12,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=16
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=PLACE, vision_feature_layer=-1
    )
    return LlavaForConditionalGeneration(config).eval().requires_grad_(False)


def make_inputs() -> dict[str, torch.Tensor]:
    """Return the five views of one image, and places for them."""
    pixels = torch.randn(VIEWS, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return {"input_ids": torch.full((1, VIEWS * TOKENS), PLACE), "pixel_values": pixels}


def raise_tower(model: PreTrainedModel, rank: int) -> PreTrainedModel:
    """Give a model adapters for 2x2 tiles that have an effect."""
    inputs = {name: value[:1] for name, value in make_inputs().items()}
    tower = tower_name(model)
    settings = RaisingSettings(
        family=type(model).__name__,
        base="",
        grids=TileGrids.of((2, 2)),
        ranks={f"{tower}.{layer}": rank for layer in try_image(model, inputs).layers},
        mode="per_tile",
        dropout=0.0,
        tile_size=SIDE,
        tokens_per_view=TOKENS,
        resize_mode="stretch",
        resizes_global_view=False,
    )
    raise_model(model, settings)
    for adapters in layer_adapters(model).values():
        for adapter in adapters:
            torch.nn.init.normal_(adapter.lora_B, std=0.02)
    return model


def load_by_peft(base: PreTrainedModel, raised: PreTrainedModel) -> PeftModel:
    """Return the base with the adapters of a raised model, loaded by peft."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "raised"
        write_raised(raised, raised.raising_settings, folder)
        model = PeftModel.from_pretrained(base, str(folder / "tile-0"), adapter_name="tile-0")
        for number in (1, 2, 3):
            model.load_adapter(str(folder / f"tile-{number}"), adapter_name=f"tile-{number}")
    return model.eval()


def build_methods(layers: int, rank: int) -> dict[str, Callable[[], torch.Tensor]]:
    """Return for each method a function that encodes the views and returns logits."""
    base = build_base(layers)
    raised = raise_tower(copy.deepcopy(base), rank)
    by_peft = load_by_peft(copy.deepcopy(base), raised)

    inputs = make_inputs()
    tile_index = torch.tensor([0, 1, 2, 3, -1])
    names = ["tile-0", "tile-1", "tile-2", "tile-3", "__base__"]
    return {
        "base": lambda: base(**inputs).logits,
        "monkeylib": lambda: raised(**inputs, tile_index=tile_index).logits,
        "peft": lambda: by_peft(**inputs, adapter_names=names).logits,
    }


def tile_adapters(settings: Settings) -> list[Row]:
    """Return the rows of per-tile LoRA beside a tower: against peft's mixed batch, and the tower alone."""
    methods = build_methods(layers=2, rank=16)
    encode = {name: torch.no_grad()(method) for name, method in methods.items()}
    size = f"tower of ViT-B's width, 2 layers, {VIEWS} views, rank 16"

    mixed = Pair(encode["monkeylib"], encode["peft"], close(1e-4))
    # What the adapters cost: here less than 1 times the tower alone is all there can be; 8 % are allowed.
    alone = Pair(encode["monkeylib"], encode["base"], lambda first, second: not close(1e-4)(first, second))
    # A round takes a second, and a few percent are to be told apart.
    settings = settings if settings.is_quick else replace(settings, rounds=max(settings.rounds, 15))
    return [
        compare_time("per-tile LoRA beside a tower", "peft's mixed batch", size, mixed, settings, 1.1),
        compare_time("per-tile LoRA beside a tower", "the tower alone", size, alone, settings, 1 / 1.08),
    ]


ROWS = {"tile_adapters": tile_adapters}
