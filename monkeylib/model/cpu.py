"""What a CPU is good for: the precision in which it multiplies fastest, and the memory it has left."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import nn

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
    matrix @ matrix  # the first product prepares

    fastest = float("inf")
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        matrix @ matrix
        fastest = min(fastest, time.perf_counter() - start)
    return fastest


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
