"""Memory and time of a training step: monkeylib's against the released code's, in one run.

Both methods train the same model, with the same weights, on the same rows, and reach the same loss:

* `monkeylib`: rows padded to the longest of them, logits where a label is, all views through the ViT together
  in chunks that suit the machine;
* `released`: rows padded to 2,048 tokens, logits at every position with a shifted copy, and the views through
  ViT and resampler one tile position after the other.

A step is forward, backward, clipping and AdamW. In each round both methods run one after the other, each in
its own process with one thread and the same settings of the allocator; the next round begins with the other
method. A process takes one step to warm up, then the timed ones. Time is the processor time of the process,
which does not count what other programs do meanwhile. Ratios are taken within a round, and their median is
stated with the lowest and highest. Peak memory is what the kernel reports for the process (`ru_maxrss`).

    python benchmarks/training_step.py --rounds 5
"""

import argparse
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
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.model import (
    MonkeyConfig,
    MonkeyForConditionalGeneration,
    MonkeyResamplerConfig,
    MonkeyVisionConfig,
)
from monkeylib.reproduce.tables import fill_blocks, markdown_table

FOLDER = Path(__file__).parent
METHODS = ("monkeylib", "released")
PADDED_LENGTH = 2048  # of the released code, in tokens

# Peak memory is that of the model, the batch, the step and PyTorch itself; `step` is the step alone.
MEASURES: dict[str, Callable[[dict[str, float]], float]] = {
    "seconds": lambda run: run["seconds"],
    "peak": lambda run: run["peak"],
    "step": lambda run: run["peak"] - run["loaded"],
}
# Columns of the table in README.md.
COLUMNS = {
    "size": "size",
    "rows": "rows",
    "rounds": "rounds",
    "seconds monkeylib": "CPU s, monkeylib",
    "seconds released": "CPU s, released",
    "seconds ratio": "ratio",
    "seconds spread": "lowest–highest",
    "peak monkeylib": "peak MB, monkeylib",
    "peak released": "peak MB, released",
    "peak ratio": "ratio of peaks",
    "step ratio": "ratio without what is loaded",
}

ENVIRONMENT = {
    # Keep freed memory: otherwise much of the time goes into getting the same pages again.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_ARENA_MAX": "1",
    # One thread: threads that wait for each other would count as busy.
    "OMP_NUM_THREADS": "1",
}


def nano() -> MonkeyConfig:
    """Return the configuration of the profile nano."""
    return profiles.build_config(profiles.load_profile("nano"))


def middle() -> MonkeyConfig:
    """Return a configuration of five views of 224 pixels, and a language model with 32,000 tokens."""
    text_config = AutoConfig.for_model(
        "qwen2",
        vocab_size=32_000,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        pad_token_id=0,
        eos_token_id=0,
        max_position_embeddings=PADDED_LENGTH,
    )
    return MonkeyConfig(
        vision_config=MonkeyVisionConfig(tile_size=224, width=256, layers=6, heads=4, mlp_width=1024),
        resampler_config=MonkeyResamplerConfig(queries=64, heads=6),
        text_config=text_config,
        image_start_id=1,
        image_end_id=2,
        image_token_id=3,
        grids=[[2, 2]],
    )


SIZES = {"nano": nano, "middle": middle}


def make_batch(config: MonkeyConfig, rows: int, length: int | None = None) -> dict[str, torch.Tensor]:
    """Return random rows of an image and 60 to 180 tokens of text, the last third of which is learned.

    Args:
        config: of the model.
        rows: number of rows.
        length: pad rows to so many tokens; to the longest row by default.
    """
    generator = torch.Generator().manual_seed(0)
    image_ids = [1, *[config.image_token_id] * sizing.count_visual_tokens(config), 2]
    text_lengths = torch.linspace(60, 180, rows).int().tolist()
    length = length or len(image_ids) + max(text_lengths)

    ids = torch.zeros(rows, length, dtype=torch.long)
    labels = torch.full_like(ids, IGNORE_INDEX)
    mask = torch.zeros_like(ids)
    for row, text_length in enumerate(text_lengths):
        text = torch.randint(4, config.text_config.vocab_size, (text_length,), generator=generator)
        end = len(image_ids) + text_length
        ids[row, :end] = torch.cat([torch.tensor(image_ids), text])
        labels[row, end - text_length // 3 : end] = text[-(text_length // 3) :]
        mask[row, :end] = 1

    views = rows * sum(sizing.count_views(config))
    side = config.tile_size
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "pixel_values": torch.randn(views, 3, side, side, generator=generator),
        "grids": torch.tensor([list(sizing.default_grid(config))] * rows),
    }


def compute_loss(
    method: str, model: MonkeyForConditionalGeneration, batch: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Return the loss of a batch, computed by one of the two methods."""
    if method == "monkeylib":
        return model(**batch).loss

    # One position after the other: the same tile of every image, then the global view of every image.
    views_per_image = sum(sizing.count_views(model.config))
    lora_index = model.lora_index(batch["grids"][:1])
    tokens = []
    for position in range(views_per_image):
        pixel_values = batch["pixel_values"][position::views_per_image]
        features = model.vision(pixel_values, [lora_index[position]] * len(batch["grids"]))
        tokens.append(model.resampler(features))

    # [images, views, queries, width] -> [V, queries, width], the views of an image side by side
    visual_tokens = torch.stack(tokens, dim=1).flatten(0, 1)
    embeds = model.splice(batch["input_ids"], visual_tokens)
    logits = model(inputs_embeds=embeds, attention_mask=batch["attention_mask"], logits_to_keep=0).logits

    shifted = logits[:, :-1].contiguous()
    return F.cross_entropy(shifted.flatten(0, 1), batch["labels"][:, 1:].flatten())


def run_steps(method: str, size: str, rows: int, steps: int) -> dict[str, float]:
    """Train in this process.

    Returns:
        `seconds` of processor time of a step (median), `peak` memory of the process, and `loaded`, what it
        held before any step, both in MB.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = SIZES[size]()
    model = MonkeyForConditionalGeneration(config).train()
    model.freeze_for_finetuning()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    batch = make_batch(config, rows, PADDED_LENGTH if method == "released" else None)

    loaded = _peak_megabytes()
    seconds = []
    for _ in range(steps + 1):
        start = time.process_time()
        compute_loss(method, model, batch).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(time.process_time() - start)

    # The first step warms up.
    return {"seconds": statistics.median(seconds[1:]), "peak": _peak_megabytes(), "loaded": loaded}


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(method: str, size: str, rows: int, steps: int) -> dict[str, float]:
    """Return what `run_steps` measures, in its own process."""
    command = [sys.executable, __file__, "--worker", method, "--sizes", size]
    command += ["--rows", str(rows), "--steps", str(steps)]
    process = subprocess.run(
        command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=True
    )
    return json.loads(process.stdout.splitlines()[-1])


def compare(size: str, rows: int, rounds: int, steps: int) -> dict[str, tables.Value]:
    """Return a row of the table: medians of both methods, and of their ratios within a round."""
    runs: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for number in range(rounds):
        # The other method first in every second round, since the machine may get slower or faster.
        order = METHODS if number % 2 == 0 else reversed(METHODS)
        for method in order:
            runs[method].append(measure(method, size, rows, steps))

    values: dict[str, tables.Value] = {"size": size, "rows": rows, "rounds": rounds, "steps": steps}
    for name, value_of in MEASURES.items():
        measured = [value_of(run) for run in runs["monkeylib"]]
        released = [value_of(run) for run in runs["released"]]
        ratios = [second / first for first, second in zip(measured, released, strict=True)]

        values[f"{name} monkeylib"] = statistics.median(measured)
        values[f"{name} released"] = statistics.median(released)
        values[f"{name} ratio"] = statistics.median(ratios)
        values[f"{name} spread"] = f"{min(ratios):.2f}–{max(ratios):.2f}"

    return values | machine()


def machine() -> dict[str, object]:
    """Return what the numbers depend on, without names of hosts or users."""
    info = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[1],  # programs that wanted a core, over the last five minutes
        "torch": torch.__version__,
    }


def write_results(rows: list[dict[str, tables.Value]], folder: Path) -> Path:
    """Write results/training_step.csv, and its table into README.md beside it."""
    target = folder / "results" / "training_step.csv"
    tables.write_csv([{name: _round(value) for name, value in row.items()} for row in rows], target)

    page = folder / "README.md"
    text = fill_page(page.read_text(encoding="utf-8"), target)
    with resources.atomic_write(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return target


def fill_page(page: str, results: Path) -> str:
    """Return the page with the table of the results in its marked place."""
    table = "There are no results yet.\n"
    if results.is_file():
        table = markdown_table(tables.read_csv(results), COLUMNS)
    return fill_blocks(page, lambda _: table)


def _round(value: tables.Value) -> tables.Value:
    """Return a measured number with three significant digits."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def main() -> None:
    """Run the comparison, print it and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rows", type=int, default=2, help="rows in a step")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each method")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a process")
    parser.add_argument("--worker", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()

    if options.worker:
        print(json.dumps(run_steps(options.worker, options.sizes[0], options.rows, options.steps)))
        return

    rows = []
    for size in options.sizes:
        rows.append(compare(size, options.rows, options.rounds, options.steps))
        line = ", ".join(f"{name}: {tables.format_value(value)}" for name, value in rows[-1].items())
        print(line, flush=True)
        # Written after each size, so that a stopped run leaves those that are finished.
        print(f"wrote {resources.display_path(write_results(rows, FOLDER))}", flush=True)


if __name__ == "__main__":
    main()
