"""Memory and time of a training step: this library's way against the released recipe's, in one run.

Both train the same model, with the same weights, on the same rows, and reach the same loss:

* `ours`: rows padded to the longest of them, logits where a label is, all views through the ViT together in
  chunks that suit the machine;
* `released`: rows padded to 2,048 tokens, logits at every position with a shifted copy, and the views one
  position after the other through ViT and resampler.

A step is forward, backward, clipping and AdamW. In each round both ways run one after the other, each in a
process of its own with one thread and the same settings of the allocator, and the next round begins with the
other way. A process takes one step to warm up, then the timed ones. Time is the processor's time of the
process, which does not count what other programs do meanwhile; ratios are taken within a round, and their
median is stated with the lowest and highest. Peak memory is what the kernel reports for the process
(`ru_maxrss`).

    python benchmarks/training_step.py --rounds 5
"""

import argparse
import csv
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import AutoConfig

from monkeylib import profiles, resources, sizing, tables
from monkeylib.model import (
    MonkeyConfig,
    MonkeyForConditionalGeneration,
    MonkeyResamplerConfig,
    MonkeyVisionConfig,
)
from monkeylib.prompts import IGNORE_INDEX
from monkeylib.reproduce.tables import fill_blocks, markdown_table

FOLDER = Path(__file__).parent
WAYS = ("ours", "released")
PADDED = 2048
# A row's memory is that of the model, the batch and PyTorch itself; `step` is what comes on top of them.
MEASURES: dict[str, Callable[[dict[str, float]], float]] = {
    "seconds": lambda run: run["seconds"],
    "peak": lambda run: run["peak"],
    "step": lambda run: run["peak"] - run["loaded"],
}
SHOWN = {
    "size": "size",
    "rows": "rows",
    "rounds": "rounds",
    "seconds ours": "CPU s, ours",
    "seconds released": "CPU s, released",
    "seconds ratio": "ratio",
    "seconds spread": "lowest–highest",
    "peak ours": "peak MB, ours",
    "peak released": "peak MB, released",
    "peak ratio": "ratio of peaks",
    "step ratio": "ratio without what is loaded",
}
# A process keeps what it has freed: otherwise much of the time goes into getting the same pages again.
ALONE = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_ARENA_MAX": "1"}
ALONE["OMP_NUM_THREADS"] = "1"  # what threads wait for each other is no time of the processor's


def nano() -> MonkeyConfig:
    """The profile nano."""
    return profiles.build_config(profiles.load_profile("nano"))


def middle() -> MonkeyConfig:
    """Five views of 224 pixels, and a language model with 32,000 words."""
    text = {"vocab_size": 32_000, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 6, "pad_token_id": 0, "eos_token_id": 0}
    return MonkeyConfig(
        vision_config=MonkeyVisionConfig(tile_size=224, width=256, layers=6, heads=4, mlp_width=1024),
        resampler_config=MonkeyResamplerConfig(queries=64, heads=6),
        text_config=AutoConfig.for_model("qwen2", **text, **heads, max_position_embeddings=PADDED),
        image_start_id=1,
        image_end_id=2,
        image_token_id=3,
        grids=[[2, 2]],
    )


SIZES = {"nano": nano, "middle": middle}


def batch(config: MonkeyConfig, rows: int, length: int | None = None) -> dict[str, torch.Tensor]:
    """Random rows of 60 to 180 tokens of text, a third of which is learned, padded to `length` or the
    longest."""
    chance = torch.Generator().manual_seed(0)
    span = [1, *[config.image_token_id] * sizing.count_visual_tokens(config), 2]
    texts = torch.linspace(60, 180, rows).int().tolist()
    length = length or len(span) + max(texts)
    ids = torch.zeros(rows, length, dtype=torch.long)
    labels, mask = torch.full_like(ids, IGNORE_INDEX), torch.zeros_like(ids)
    for row, count in enumerate(texts):
        words = torch.randint(4, config.text_config.vocab_size, (count,), generator=chance)
        end = len(span) + count
        ids[row, :end] = torch.cat([torch.tensor(span), words])
        labels[row, end - count // 3 : end] = words[-(count // 3) :]
        mask[row, :end] = 1
    views, side = rows * sum(sizing.count_views(config)), config.tile_size
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "pixel_values": torch.randn(views, 3, side, side, generator=chance),
        "grids": torch.tensor([list(sizing.default_grid(config))] * rows),
    }


def loss_of(way: str, model: MonkeyForConditionalGeneration, rows: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of a batch, computed in one of the two ways."""
    if way == "ours":
        return model(**rows).loss
    each = sum(sizing.count_views(model.config))
    index = model.lora_index(rows["grids"][:1])
    seen = [
        model.resampler(model.vision(rows["pixel_values"][place::each], [index[place]] * len(rows["grids"])))
        for place in range(each)
    ]
    embeds = model.splice(rows["input_ids"], torch.stack(seen, dim=1).flatten(0, 1))
    logits = model(inputs_embeds=embeds, attention_mask=rows["attention_mask"], logits_to_keep=0).logits
    shifted = logits[:, :-1].contiguous()
    return F.cross_entropy(shifted.flatten(0, 1), rows["labels"][:, 1:].flatten())


def work(way: str, size: str, rows: int, steps: int) -> dict[str, float]:
    """Processor seconds of a step and peak memory of this process, in MB; `loaded` is what it held before any
    step."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = SIZES[size]()
    model = MonkeyForConditionalGeneration(config).train()
    model.freeze_for_finetuning()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    inputs = batch(config, rows, PADDED if way == "released" else None)
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = []
    for _ in range(steps + 1):
        start = time.process_time()
        loss_of(way, model, inputs).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": statistics.median(seconds[1:]), "peak": peak, "loaded": loaded}


def measure(way: str, size: str, rows: int, steps: int) -> dict[str, float]:
    """What `work` measures, in a process of its own."""
    call = [sys.executable, __file__, "--worker", way, "--sizes", size]
    call += ["--rows", str(rows), "--steps", str(steps)]
    done = subprocess.run(call, env=os.environ | ALONE, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(size: str, rows: int, rounds: int, steps: int) -> dict[str, tables.Value]:
    """One row of the table: medians of both ways, and of how many times the released way takes as much."""
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way in WAYS[:: -1 if number % 2 else 1]:
            runs[way].append(measure(way, size, rows, steps))
    values: dict[str, tables.Value] = {"size": size, "rows": rows, "rounds": rounds, "steps": steps}
    for name, of in MEASURES.items():
        ours, released = ([of(run) for run in runs[way]] for way in WAYS)
        ratios = [b / a for a, b in zip(ours, released, strict=True)]
        values |= {f"{name} ours": statistics.median(ours), f"{name} released": statistics.median(released)}
        values[f"{name} ratio"] = statistics.median(ratios)
        values[f"{name} spread"] = f"{min(ratios):.2f}–{max(ratios):.2f}"
    return values | machine()


def machine() -> dict[str, object]:
    """What the numbers depend on, without names of hosts or users."""
    info = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[1],  # programs that wanted a core, over the last five minutes
        "torch": torch.__version__,
    }


def write(rows: list[dict[str, tables.Value]], folder: Path) -> Path:
    """Write results/training_step.csv, and its table into the README beside."""
    target, page = folder / "results" / "training_step.csv", folder / "README.md"
    with (
        resources.atomic_write(target) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: rounded(value) for name, value in row.items()} for row in rows)
    text = filled(page.read_text(encoding="utf-8"), target)
    with resources.atomic_write(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return target


def filled(page: str, results: Path) -> str:
    """The page with the table of the results in its marked place."""
    if not results.is_file():
        return fill_blocks(page, lambda _: "No results lie here yet.\n")
    return fill_blocks(page, lambda _: markdown_table(tables.read_csv(results), SHOWN))


def rounded(value: tables.Value) -> tables.Value:
    """Three digits of what was measured."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def main() -> None:
    """Run the comparison, print it and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rows", type=int, default=2, help="rows in a step")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each way")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a process")
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        print(json.dumps(work(chosen.worker, chosen.sizes[0], chosen.rows, chosen.steps)))
        return
    found = []
    for size in chosen.sizes:
        found.append(compare(size, chosen.rows, chosen.rounds, chosen.steps))
        print(
            ", ".join(f"{name}: {tables.format_value(value)}" for name, value in found[-1].items()),
            flush=True,
        )
        print(f"wrote {resources.display_path(write(found, FOLDER))}", flush=True)


if __name__ == "__main__":
    main()
