"""What might be faster and isn't used: each trial against the code as it is.

    python benchmarks/trials.py                     # a few minutes; torch.compile alone takes two
    python benchmarks/trials.py --only int8_weights

It writes results/trials.json, and with it the page docs/performance.md. A ratio above 1 means that the trial
is faster than what is used.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import pages
import torch
from language import build_monkey, make_image
from pairing import Row, Settings, gemm_rate, in_process, seconds_of, write_json
from run import restart_with_fixed_allocator
from torch import nn
from torch.nn import functional as F
from visual import build_model, make_views

from monkeylib import resources
from monkeylib.model import vision
from monkeylib.model.tile_lora import NO_LORA, TileLoRA

FOLDER = Path(__file__).parent
SIZE = "visual tokens, width 512, 2 layers, 896 x 896"


def trial_row(name: str, size: str, current: Callable, trial: Callable, rounds: int, note: str = "") -> Row:
    """Return the row of a trial: the least times of both, in turn, and the difference of their results."""
    start = time.perf_counter()
    result = trial()
    preparation = time.perf_counter() - start
    expected = current()
    difference = ""
    if isinstance(expected, torch.Tensor):
        error = (result.float() - expected.float()).abs().max() / expected.float().abs().max()
        difference = f"{float(error):.1g}"

    times: dict[str, list[float]] = {"current": [], "trial": []}
    for _ in range(rounds):
        times["current"].append(seconds_of(current)[0])
        times["trial"].append(seconds_of(trial)[0])
    least = {way: min(values) for way, values in times.items()}
    return {
        "trial": name,
        "work": size,
        "s as it is": float(f"{least['current']:.3g}"),
        "s of the trial": float(f"{least['trial']:.3g}"),
        "ratio": round(least["current"] / least["trial"], 2),
        "largest difference": difference,
        "first call, s": float(f"{preparation:.3g}"),
        "note": note,
    }


def _encoder(layers: int = 2, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Callable]:
    model = build_model(layers=layers, dtype=dtype)
    pixel_values, grids = make_views(model, 1), torch.tensor([[2, 2]])
    return model, torch.no_grad()(lambda: model.get_image_features(pixel_values, grids))


def merged_adapters(settings: Settings) -> list[Row]:
    """LoRA of the attention merged into its weights for each tile; that of the MLP bypasses it."""
    model, current = _encoder()
    pixel_values = make_views(model, 1)
    lora_index = model.lora_index(torch.tensor([[2, 2]]))

    @torch.no_grad()
    def trial() -> torch.Tensor:
        tokens, shared = [], {}
        for view, number in zip(pixel_values, lora_index, strict=True):
            kept = []
            for block in model.vision.blocks if number != NO_LORA else ():
                for layer, name in ((block.attention.qkv, "qkv_lora"), (block.attention.out, "out_lora")):
                    adapters: TileLoRA = getattr(block.attention, name)
                    change = adapters.scaling[number] * adapters.lora_B[number] @ adapters.lora_A[number]
                    kept.append((block.attention, name, adapters, layer, layer.weight.data))
                    layer.weight.data = layer.weight.data + change
                    setattr(block.attention, name, None)
            features = model.vision(view[None], [number])
            tokens.append(model.resampler(features, shared=shared))
            for attention, name, adapters, layer, weight in kept:
                layer.weight.data = weight
                setattr(attention, name, adapters)
        return torch.cat(tokens)

    return [trial_row("adapters merged into weights", SIZE, current, trial, settings.rounds)]


def compiled(settings: Settings) -> list[Row]:
    """torch.compile of the ViT's blocks."""
    model, current = _encoder()
    other = copy.deepcopy(model)
    for block in other.vision.blocks:
        block.compile()
    pixel_values, grids = make_views(model, 1), torch.tensor([[2, 2]])
    trial = torch.no_grad()(lambda: other.get_image_features(pixel_values, grids))
    return [trial_row("torch.compile", SIZE, current, trial, settings.rounds)]


def int8_weights(settings: Settings) -> list[Row]:
    """Linear layers of ViT and resampler in int8, activations quantised as they come."""
    model, current = _encoder()
    other = copy.deepcopy(model)
    for name in ("vision", "resampler"):
        part = torch.ao.quantization.quantize_dynamic(getattr(other, name), {nn.Linear}, dtype=torch.qint8)
        setattr(other, name, part)
    pixel_values, grids = make_views(model, 1), torch.tensor([[2, 2]])
    trial = torch.no_grad()(lambda: other.get_image_features(pixel_values, grids))
    return [trial_row("int8 weights of ViT and resampler", SIZE, current, trial, settings.rounds)]


def static_cache(settings: Settings) -> list[Row]:
    """The cache of fixed size of transformers, in place of the one that grows."""
    monkey = build_monkey(quick=True)
    # Each call encodes and reads the image anew, as the one with a static cache does.
    monkey.cached_images = 0
    answer = partial(monkey.answer, make_image(), "What stands in line 1?", max_new_tokens=32)
    return [
        trial_row(
            "static cache",
            "an answer of 32 tokens, 1,280 visual tokens",
            lambda: answer().text,
            lambda: answer(cache_implementation="static").text,
            settings.rounds,
        )
    ]


def plain_attention(settings: Settings) -> list[Row]:
    """Plain products in place of the fused attention in float32, and the fused attention in bfloat16."""

    def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, _: bool) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def attend_plainly(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, _: bool) -> torch.Tensor:
        return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v

    rows = []
    for name, dtype, attention in (
        ("plain products in float32", torch.float32, attend_plainly),
        ("fused attention in bfloat16", torch.bfloat16, fused),
    ):
        _, encode = _encoder(dtype=dtype)

        def trial(encode: Callable = encode, attention: Callable = attention) -> torch.Tensor:
            with mock.patch.object(vision, "attend", attention):
                return encode()

        note = f"GEMM {gemm_rate(dtype) / 1e9:.0f} GFLOP/s"
        rows.append(trial_row(name, SIZE, encode, trial, settings.rounds, note))
    return rows


TRIALS = {
    "merged_adapters": merged_adapters,
    "plain_attention": plain_attention,
    "int8_weights": int8_weights,
    "static_cache": static_cache,
    "compiled": compiled,
}


def main() -> None:
    """Measure, print, and write results/trials.json and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=TRIALS, help="writes nothing")
    options = parser.parse_args()

    torch.set_num_threads(1)
    settings = Settings(options.rounds)
    rows: list[Row] = []
    for name in options.only or TRIALS:
        try:
            rows += in_process(lambda name=name: TRIALS[name](settings))
        except RuntimeError as error:
            rows.append({"trial": name, "note": f"failed: {str(error).strip().splitlines()[-1]}"})
        print(rows[-1], flush=True)

    if not options.only:
        write_json(rows, FOLDER / "results" / "trials.json", settings)
        print(f"wrote {resources.display_path(pages.write_page())}")


if __name__ == "__main__":
    restart_with_fixed_allocator()
    main()
