"""What a CPU is good for: the precision in which it multiplies fastest, and the memory it has left."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from monkeylib.progress import say

Model = TypeVar("Model", bound=nn.Module)

_SIDE = 128  # of the matrices that are multiplied to compare: milliseconds even where it is slow
_ROUNDS = 3


@cache
def relative_speed(dtype: torch.dtype) -> float:
    """Return how many times as fast as in float32 this CPU multiplies matrices in another precision.

    It is measured once in a process. A CPU without instructions for bfloat16 or float16 takes up to a hundred
    times as long.
    """
    return _seconds(torch.float32) / _seconds(dtype)


def _seconds(dtype: torch.dtype) -> float:
    matrix = torch.ones(_SIDE, _SIDE, dtype=dtype)
    return _fastest(lambda: matrix @ matrix)


def _fastest(work: Callable[[], object]) -> float:
    """Return the seconds that some work takes at best."""
    work()  # the first time prepares

    fastest = float("inf")
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest


@cache
def prefers_plain_attention() -> bool:
    """Return whether this CPU attends in bfloat16 faster by plain products than by torch's fused kernel.

    The fused kernel multiplies bfloat16 no faster than float32. Where the CPU has instructions for bfloat16,
    products are twice as fast, and so is attention by them. It is measured once in a process, on the patches
    of a view.
    """
    # [1, heads, patches, head_dim]
    views = torch.ones(1, 2, 1024, 64, dtype=torch.bfloat16)
    products = _fastest(lambda: (views @ views.transpose(-1, -2)).softmax(dim=-1) @ views)
    return products < _fastest(lambda: F.scaled_dot_product_attention(views, views, views))


def choose_dtype(model: nn.Module) -> torch.dtype:
    """Return the precision in which a model on a CPU is fastest: its own, or float32 where that fits.

    Raises:
        StopIteration: the model has no parameters.
    """
    own = next(model.parameters()).dtype
    if own == torch.float32 or relative_speed(own) >= 1:
        return own

    weights = sum(weight.nbytes for weight in model.parameters())
    available = system_memory("MemAvailable")
    # Weight by weight, float32 takes as much again as the model has now.
    fits = available is None or 1.2 * weights < available
    return torch.float32 if fits else own


def to_fastest_dtype(model: Model) -> Model:
    """Turn a model on a CPU to the precision that the CPU multiplies fastest, and say so."""
    own = next(model.parameters()).dtype
    if own == torch.float32 or relative_speed(own) >= 1:
        return model

    name = str(own).removeprefix("torch.")
    times = f"{1 / relative_speed(own):.0f} times as"
    if choose_dtype(model) == own:
        say(f"this CPU multiplies {name} {times} slowly as float32, for which there is no memory")
        return model

    say(
        f"weights in {name} are computed in float32, which this CPU multiplies {times} fast: dtype={name!r} "
        "keeps them"
    )
    return model.float()


def system_memory(field: Literal["MemAvailable", "MemTotal"]) -> int | None:
    """Return a field of /proc/meminfo in bytes; None where the system has no such file."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None

    # "MemAvailable:   20341 kB"
    for line in lines:
        name, _, value = line.partition(":")
        if name == field:
            return 1024 * int(value.split()[0])
    return None
