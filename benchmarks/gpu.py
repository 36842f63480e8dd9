"""Monkey at the paper's size on one GPU; see gpu.sh.

Each row says what was measured, on which device, and beside what:

* images encoded per second at batch 1, 8 and 32, beside the released way (one tile position after the other,
  with the scores in memory);
* the first token, and tokens per second after it, at the same batches, beside the released way (logits at all
  positions, keys and values copied for each token) and transformers' InternVL of equal shape;
* a training step of adapters and resampler with checkpointing, its peak memory, and its share of the rate of
  a large matrix product on this device, beside the released way, which pads to 2,048 tokens and keeps what
  its ViT computes (only the language model is checkpointed);
* the loss of the profile `small` while it trains for four minutes, with `--tiny` that of `smoke`.
"""

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peers import body_of, build_internvl
from released import PADDED_LENGTH, encode_images, loss_of_all_logits
from torch import nn
from transformers.cache_utils import DynamicCache

from monkeylib import profiles, sizing
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.model.kv_cache import empty_cache
from monkeylib.profiles.schema import TrainableComponents
from monkeylib.training.memory import count_step, random_micro_batch

Row = dict[str, Any]
TINY_TEXT = 8
# Ways that a row may tell of.
OURS, RELEASED, PEER = "monkeylib", "the released way", "transformers' InternVL"


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        device: where.
        is_tiny: at a size that any CPU runs in seconds, to try every step.
    """

    device: torch.device
    is_tiny: bool

    @property
    def batches(self) -> tuple[int, ...]:
        """Images that are encoded, and prompts that are answered, together."""
        return (1, 2) if self.is_tiny else (1, 8, 32)

    @property
    def new_tokens(self) -> int:
        """Tokens that are generated for each prompt."""
        return 3 if self.is_tiny else 64

    @property
    def profile(self) -> str:
        """Profile whose sizes the model has."""
        return "smoke" if self.is_tiny else "paper-896"


def seconds_of(plan: Plan, work: Callable[[], object], rounds: int = 3) -> float:
    """Return the least wall-clock seconds of some work, after a call to warm up."""

    def wait() -> None:
        if plan.device.type == "cuda":
            torch.cuda.synchronize(plan.device)

    work()
    times = []
    for _ in range(1 if plan.is_tiny else rounds):
        wait()
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return min(times)


@contextmanager
def new_weights(plan: Plan) -> Iterator[None]:
    """Build models on the device, in bfloat16, with random weights."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with plan.device:
            yield
    finally:
        torch.set_default_dtype(before)


def build(plan: Plan) -> MonkeyForConditionalGeneration:
    """Return the model with random weights."""
    with new_weights(plan):
        return MonkeyForConditionalGeneration(
            profiles.build_config(profiles.load_profile(plan.profile))
        ).eval()


def gemm_rate(plan: Plan) -> float:
    """Return the operations per second of a large product in bfloat16."""
    side = 256 if plan.is_tiny else 8192
    matrix = torch.ones(side, side, dtype=torch.bfloat16, device=plan.device)
    return 2 * side**3 / seconds_of(plan, lambda: matrix @ matrix)


def encoding(plan: Plan, model: MonkeyForConditionalGeneration) -> Iterator[Row]:
    """Images per second, ours and the released way."""
    config = model.config
    views, side = sum(sizing.count_views(config)), config.tile_size
    operations = sizing.count_flops(config)
    per_image = sum(count for part, count in operations.items() if part != "language model")
    rate = gemm_rate(plan)

    lora_index = model.lora_index(torch.tensor([list(sizing.default_grid(config))]))
    for images in plan.batches:
        pixels = torch.randn(images * views, 3, side, side, device=plan.device, dtype=torch.bfloat16)
        grids = torch.tensor([list(sizing.default_grid(config))] * images)
        ways = {
            OURS: partial(model.get_image_features, pixels, grids),
            RELEASED: partial(encode_images, model, pixels, lora_index),
        }
        for way, encode in ways.items():
            seconds = seconds_of(plan, torch.no_grad()(encode))
            yield {
                "what": "images encoded",
                "way": way,
                "batch": images,
                "value": images / seconds,
                "unit": "images/s",
                "share of GEMM": images * per_image / seconds / rate,
            }


def generation(plan: Plan, model: nn.Module, way: str) -> Iterator[Row]:
    """First token, and tokens per second after it, over prompts of visual tokens and 32 of text."""
    text_config = model.config.get_text_config()
    length = TINY_TEXT if plan.is_tiny else 1280 + 34
    body, head = body_of(model), model.get_output_embeddings()

    for batch in plan.batches:
        embeds = torch.randn(batch, length, text_config.hidden_size, device=plan.device, dtype=torch.bfloat16)

        def read(embeds: torch.Tensor = embeds) -> tuple[torch.Tensor, Any]:
            cache = empty_cache(model) if way == OURS else DynamicCache()
            output = body(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
            states = output.last_hidden_state if way == RELEASED else output.last_hidden_state[:, -1:]
            return head(states)[:, -1:].argmax(-1), output.past_key_values

        def decode(token: torch.Tensor, cache: Any) -> None:
            for _ in range(plan.new_tokens):
                output = body(
                    inputs_embeds=model.get_input_embeddings()(token), past_key_values=cache, use_cache=True
                )
                token = head(output.last_hidden_state).argmax(-1)
            cache.crop(-plan.new_tokens)

        with torch.no_grad():
            first = seconds_of(plan, read)
            token, cache = read()
            later = seconds_of(plan, lambda token=token, cache=cache: decode(token, cache))
        row = {"way": way, "batch": batch}
        yield {"what": "first token", **row, "value": first, "unit": "s"}
        yield {
            "what": "tokens after it",
            **row,
            "value": batch * plan.new_tokens / later,
            "unit": "tokens/s",
        }


def training(plan: Plan, model: MonkeyForConditionalGeneration) -> Iterator[Row]:
    """A step of adapters and resampler with checkpointing, and its memory beside the planner's."""
    config = model.config
    model.train().freeze_for_finetuning(language_model="frozen")
    model.activation_checkpointing_enable({"use_reentrant": False})
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    visual_tokens = sizing.count_visual_tokens(config)
    ids = [config.image_start_id, *[config.image_token_id] * visual_tokens, config.image_end_id]
    input_ids = torch.tensor([[*ids, *[7] * 32]], device=plan.device)
    labels = torch.full_like(input_ids, -100)
    labels[:, -16:] = 7
    views, side = sum(sizing.count_views(config)), config.tile_size
    pixels = torch.randn(views, 3, side, side, device=plan.device, dtype=torch.bfloat16)
    grids = torch.tensor([list(sizing.default_grid(config))])

    def loss() -> torch.Tensor:
        return model(input_ids=input_ids, pixel_values=pixels, grids=grids, labels=labels).loss

    def released_loss() -> torch.Tensor:
        """Return the loss of the same row, padded, with logits at every position."""
        padding = max(PADDED_LENGTH, input_ids.shape[1]) - input_ids.shape[1]
        tokens = encode_images(model, pixels, model.lora_index(grids))
        embeds = nn.functional.pad(model.splice(input_ids, tokens), (0, 0, 0, padding))
        states = model.language_model.model(inputs_embeds=embeds).last_hidden_state
        padded = nn.functional.pad(labels, (0, padding), value=-100)
        return loss_of_all_logits(states, model.get_output_embeddings().weight, padded)

    def step(compute_loss: Callable[[], torch.Tensor]) -> None:
        compute_loss().backward()
        optimiser.step()
        optimiser.zero_grad()

    operations = sizing.count_flops(config, text_tokens=32)
    # Forward, recomputed, and backward to the activations: the weights beside the adapters are frozen.
    total = 3 * sum(operations.values())
    rate = gemm_rate(plan)
    for way, compute_loss in ((OURS, loss), (RELEASED, released_loss)):
        row = {"way": way, "batch": 1}
        if plan.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(plan.device)
        seconds = seconds_of(plan, partial(step, compute_loss))
        share = {"share of GEMM": total / seconds / rate} if way == OURS else {}
        what = "training step, adapters and resampler, checkpointed"
        yield {"what": what, **row, "value": seconds, "unit": "s", **share}
        if plan.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(plan.device)
            yield {"what": "peak memory of it", **row, "value": peak / 1e9, "unit": "GB"}
    planned = planned_bytes(plan) / 1e9
    yield {"what": "what the planner counts", "way": OURS, "batch": 1, "value": planned, "unit": "GB"}
    model.eval()


def planned_bytes(plan: Plan) -> int:
    """Return the peak of that step as the planner counts it, without running it."""
    components = TrainableComponents(
        vision={"train": "lora"}, resampler={"train": "full"}, language_model={"train": "frozen"}
    )
    profile = profiles.load_profile(plan.profile).with_training(
        components=components, precision="bf16-true", checkpointing=True
    )
    return count_step(profile, [random_micro_batch(profile, text_tokens=32, num_labels=16)]).peak


def curve(plan: Plan, seconds: int, out: Path) -> Iterator[Row]:
    """The loss of the profile `small` while it trains for so many seconds; tiny, that of `smoke`."""
    profile = "smoke" if plan.is_tiny else "small"
    folder = out / profile
    command = [sys.executable, "-m", "monkeylib", "train", "--profile", profile, "--out", str(folder)]
    try:
        process = subprocess.run(command, timeout=seconds, capture_output=True, text=True)
        failure = None if process.returncode == 0 else process.stderr.strip().splitlines()[-1]
    except subprocess.TimeoutExpired:
        failure = None
    if failure is not None:
        yield {"what": f"training of `{profile}`", "way": OURS, "failed": failure}
        return

    for path in sorted(folder.rglob("metrics.csv")):
        with path.open(encoding="utf-8", newline="") as lines:
            for line in csv.DictReader(lines):
                # A logger writes a line for each source of values; those of others are empty in it.
                values = {name: float(value) for name, value in line.items() if value}
                if any("loss" in name for name in values):
                    yield {"what": f"training of `{profile}`", "way": OURS, **values}


def measure(plan: Plan, out: Path, curve_seconds: int) -> Iterator[Row]:
    """Return all rows, one after the other."""
    model = build(plan)
    yield from encoding(plan, model)
    yield from generation(plan, model, OURS)
    yield from generation(plan, model, RELEASED)

    # A peer of the paper's size, or of that of the benchmark on CPUs.
    with new_weights(plan):
        peer = build_internvl(1 if plan.is_tiny else 32, is_large=not plan.is_tiny)
    yield from generation(plan, peer, PEER)
    del peer

    yield from training(plan, model)
    del model
    if curve_seconds:
        yield from curve(plan, curve_seconds, out)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and append each row to OUT/gpu.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try every step")
    parser.add_argument("--curve-seconds", type=int, help="of training; by default 240, with --tiny 60")
    options = parser.parse_args(arguments)

    plan = Plan(torch.device(options.device), options.tiny)
    curve_seconds = options.curve_seconds
    if curve_seconds is None:
        curve_seconds = 60 if plan.is_tiny else 240
    name = torch.cuda.get_device_name(plan.device) if plan.device.type == "cuda" else "CPU"

    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "gpu.jsonl").open("a", encoding="utf-8") as lines:
        for row in measure(plan, options.out, curve_seconds):
            row = {"device": name, "tiny": plan.is_tiny, "torch": torch.__version__, **row}
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            print(row, flush=True)


if __name__ == "__main__":
    main()
