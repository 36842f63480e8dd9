"""Processor time of per-tile LoRA beside the linear layers of a vision tower of transformers.

* `base`: the tower alone;
* `monkeylib`: raised by `raise_resolution`, each view with the adapter of its tile;
* `peft`: the same adapters, loaded by peft, whose mixed batch gives each view an adapter by name.

The tower has the shape of ViT-B/16 at 224 pixels, with two of its twelve layers, since the share of the
adapters is the same in each; it reads the five views of one image. All run in turn in one process with one
thread, after a round to warm up, and the last two must give the same logits.

    python benchmarks/tile_adapters.py --rounds 5
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel
from training_step import machine
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
)

from monkeylib import tables
from monkeylib.raising.adapters import layer_adapters
from monkeylib.raising.files import write_raised
from monkeylib.raising.grids import TileGrids
from monkeylib.raising.model import raise_model
from monkeylib.raising.settings import RaisingSettings
from monkeylib.raising.tower import tower_name, try_image

FOLDER = Path(__file__).parent
METHODS = ("base", "monkeylib", "peft")
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


@torch.no_grad()
def compare(rank: int, rounds: int, layers: int = 2) -> dict[str, object]:
    """Return one row of the table: medians, and what the adapters add to the base's time, in per cent.

    Raises:
        ValueError: monkeylib and peft give different logits, or those of the base.
    """
    methods = build_methods(layers, rank)
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}

    for number in range(rounds + 1):
        logits = {}
        # In turn within a round, so that all meet the same load on the machine.
        for method in METHODS:
            start = time.process_time()
            logits[method] = methods[method]()
            if number > 0:  # the first round warms up
                seconds[method].append(time.process_time() - start)

        if not torch.allclose(logits["monkeylib"], logits["peft"], atol=1e-5):
            raise ValueError("monkeylib and peft give different logits, so that their times say nothing")
        if torch.allclose(logits["monkeylib"], logits["base"], atol=1e-4):
            raise ValueError("the adapters have no effect, so that their times say nothing")

    medians = {method: statistics.median(values) for method, values in seconds.items()}

    def added(method: str) -> float:
        # Round by round, since the machine's load changes between rounds.
        shares = [of / base - 1 for of, base in zip(seconds[method], seconds["base"], strict=True)]
        return round(100 * statistics.median(shares), 1)

    return {
        "rank": rank,
        "views": VIEWS,
        "rounds": rounds,
        **{f"seconds {method}": round(median, 3) for method, median in medians.items()},
        "added percent monkeylib": added("monkeylib"),
        "added percent peft": added("peft"),
        **machine(),
    }


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[16])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    rows = [compare(rank, arguments.rounds) for rank in arguments.ranks]
    tables.write_csv(rows, FOLDER / "results" / "tile_adapters.csv")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
