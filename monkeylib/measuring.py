"""The memory of training steps: of their tensors, counted while they live, and of the process.

The count (`step`) is exact and the same each time. The process (`process_growth`) also holds what kernels and
the allocator need for themselves, and its allocator decides when it gives back what is freed.
"""

import ctypes
import gc
import multiprocessing
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from monkeylib import profiles, sizing
from monkeylib.activations import tokens_of_row
from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration
from monkeylib.profiles.build import with_lora
from monkeylib.prompts import IGNORE_INDEX
from monkeylib.recipes import Recipe

_MMAP_THRESHOLD = -3  # glibc's number of M_MMAP_THRESHOLD
_LARGE = 1 << 16  # bytes: what is larger gets pages of its own, which go back to the system when it is freed


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that PyTorch's operations make while this is entered, for as long as they
    live. Tensors that share their memory count once; what a kernel uses inside and gives back does not.

    Fields:
        current: bytes that live now.
        peak: the most that did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run the operation and count what is new in its outcome."""
        outcome = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(outcome):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return outcome

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor that was there before, if it isn't counted yet."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._alive:
            self._alive[key] = weakref.ref(storage, partial(self._remove, key, size))
            self.current += size
            self.peak = max(self.peak, self.current)

    def _remove(self, key: int, size: int, _: weakref.ref) -> None:
        del self._alive[key]
        self.current -= size


def step(config: MonkeyConfig, recipe: Recipe) -> int:
    """Bytes of tensors at the fullest moment of a model's second optimiser step on the CPU: forward,
    backward, clipping and fused AdamW, on random images and text. The model is made here, with random
    weights.

    Raises:
        ValueError: a recipe for several devices, a GPU or quantised weights.
    """
    _check(recipe)
    with LiveBytes() as live:
        for _ in _steps(config, recipe):
            live.peak = live.current
        return live.peak


def process_growth(config: MonkeyConfig, recipe: Recipe, keep_freed: bool = False) -> int:
    """Bytes by which a process grows from before the model is made to the fullest moment of the same steps,
    as the kernel counts them (resident memory).

    The process is a new one with one thread, which has trained a tiny model first, so that what the libraries
    load for a step is there before.

    Args:
        keep_freed: leave the allocator as it is: glibc's keeps much of what is freed, and what doesn't fit
            into its gaps comes on top. Otherwise it gives every large tensor back when it is freed.

    Raises:
        OSError: the system isn't Linux.
        ValueError: as `step`.
    """
    _check(recipe)
    if sys.platform != "linux":
        raise OSError(f"the memory of a process is measured on Linux, not on {sys.platform}")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(_growth, config, recipe, keep_freed).result()


def _growth(config: MonkeyConfig, recipe: Recipe, keep_freed: bool) -> int:
    """`process_growth`, within the new process."""
    if not keep_freed:
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)
    torch.set_num_threads(1)
    for _ in _steps(profiles.build_config(profiles.load("smoke")), recipe):
        pass
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest so far
    before = _resident("VmRSS")
    for _ in _steps(config, recipe):
        pass
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    """Bytes in memory, now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _check(recipe: Recipe) -> None:
    if recipe.strategy != "single" or recipe.on_gpu or recipe.language_model_bits:
        raise ValueError("a step is measured on one CPU: pass strategy='single', on_gpu=False and no bits")


def _steps(config: MonkeyConfig, recipe: Recipe) -> Iterator[None]:
    """Make a model and train it for two steps; stops before each."""
    torch.manual_seed(0)
    model = build(config, recipe)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, fused=True)
    inputs = batch(config, recipe)
    for _ in range(2):
        yield
        for _ in range(recipe.passes):
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16-mixed"):
                loss = model(**inputs).loss
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()


def build(config: MonkeyConfig, recipe: Recipe) -> MonkeyForConditionalGeneration:
    """A model with random weights, of which trains what the recipe says."""
    model = MonkeyForConditionalGeneration(config).train()
    model.freeze_for_finetuning(
        recipe.vision, recipe.resampler, recipe.language_model, recipe.resampler_output
    )
    if recipe.language_model == "lora":
        rank, dropout = recipe.language_model_rank, config.lora_dropout
        model.language_model = with_lora(model.language_model, rank, dropout)
    if recipe.checkpointing:
        model.activation_checkpointing_enable()
    # As Lightning does; peft alone would keep its own weights in float32.
    return model.to(torch.bfloat16) if recipe.precision == "bf16-true" else model


def batch(config: MonkeyConfig, recipe: Recipe) -> dict[str, torch.Tensor | None]:
    """Random inputs of a recipe's rows, every second one a token shorter than the others, and padded."""
    rows, length = recipe.rows, tokens_of_row(config, recipe)
    ids = torch.randint(4, min(200, config.text_config.vocab_size), (rows, length))
    ids[:, 1 : 1 + sizing.visual_tokens(config)] = config.image_token_id
    mask = torch.ones_like(ids)
    mask[1::2, -1] = 0
    labels = ids.where(mask == 1, IGNORE_INDEX)
    labels[:, : -recipe.answer_tokens] = IGNORE_INDEX
    views = rows * sum(sizing.view_counts(config))
    grids = None if config.views == "global" else torch.tensor([list(sizing.grid_of_config(config))] * rows)
    pixels = torch.randn(views, 3, config.tile_size, config.tile_size)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": pixels,
        "grids": grids,
        "labels": labels,
    }
