"""How two ways of doing the same work are compared: monkeylib's and another one.

* Both give the same result; a comparison whose results differ raises.
* Both run in turn in one process with one thread and one setting of the allocator, in every second round in
  the other order, after a call of each to warm up. Time is the processor time of the process, which doesn't
  count what other programs do meanwhile.
* A ratio is the other way's value divided by monkeylib's, taken within a round: its median is stated, with
  the lowest and the highest.
* What the processor can do is measured in the same rounds, as the rate of one large matrix product (GEMM);
  the share of it is that of the operations that the work needs.
* A path that misses its target is profiled, both ways, after the rounds: `profiling.py`.
* Memory is the highest that a process of its own needs beyond what it held before the work, with an allocator
  that gives freed memory back, as it does by default: one that keeps it would count it as held.
"""

import ctypes
import json
import multiprocessing
import os
import platform
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from profiling import shares_of_time
from torch.utils.flop_counter import FlopCounterMode

# Of the process that measures, before it starts.
ENVIRONMENT = {
    # Keep freed memory: otherwise much of the time goes into getting the same pages again.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_ARENA_MAX": "1",
    # One thread: threads that wait for each other would count as busy.
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # The profiler writes lines of its own.
    "KINETO_LOG_LEVEL": "99",
}
# Of the matrix product whose rate is the measure: rows, inner and columns, as in a wide layer of a ViT.
_GEMM = (1024, 1024, 4096)

# Parameters of glibc's `mallopt`, and their values where the environment sets nothing.
_MALLOC_DEFAULTS = {-4: 2**16, -3: 2**17, -1: 2**17}  # blocks of their own, from which size, and bytes kept

Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        rounds: timed rounds of each comparison.
        is_quick: smaller sizes.
    """

    rounds: int = 3
    is_quick: bool = False


@dataclass(frozen=True)
class Pair:
    """Two ways of doing the same work.

    Attributes:
        monkeylib, other: do it and return the result.
        same: tells whether both results are the same.
        operations: floating-point operations that the work needs, None where products aren't what it is.
        dtype: in which they are done.
        repeats: calls that are timed together, where one takes little more than the clock can tell.
    """

    monkeylib: Callable[[], Any]
    other: Callable[[], Any]
    same: Callable[[Any, Any], bool]
    operations: int | None = None
    dtype: torch.dtype = torch.float32
    repeats: int = 1


def close(tolerance: float) -> Callable[[torch.Tensor, torch.Tensor], bool]:
    """Return a check that two tensors differ by at most a share of the largest value."""

    def check(first: torch.Tensor, second: torch.Tensor) -> bool:
        first, second = first.float(), second.float()
        return bool((first - second).abs().max() <= tolerance * second.abs().max())

    return check


def count_operations(work: Callable[[], Any]) -> int:
    """Return the floating-point operations of the matrix products of some work, attention included."""
    # The fused attention of CPUs isn't among those that are counted: two products are.
    fused = torch.nn.functional.scaled_dot_product_attention

    def count_fused(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any, **options: Any
    ) -> torch.Tensor:
        (q @ k.transpose(-1, -2)) @ v
        return fused(q, k, v, *rest, **options)

    counted = mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", count_fused)
    with counted, torch.no_grad(), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def gemm_rate(dtype: torch.dtype = torch.float32) -> float:
    """Return the operations per second of a large matrix product."""
    rows, inner, columns = _GEMM
    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
    seconds = min(seconds_of(lambda: torch.nn.functional.linear(left, right))[0] for _ in range(2))
    return 2 * rows * inner * columns / seconds


def seconds_of(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor time of some work, and its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def compare_time(
    path: str, against: str, size: str, pair: Pair, settings: Settings, target: float | None
) -> Row:
    """Return the row of a path on which time is compared.

    Args:
        path, against, size: what is done, what it is compared with, and how large it is.
        pair: both ways.
        settings: number of rounds.
        target: the ratio that it should have at least.

    Raises:
        ValueError: the results differ.
    """
    require_same(path, pair)

    seconds: dict[str, list[float]] = {"monkeylib": [], "other": []}
    rates = []
    for number in range(settings.rounds):
        # The other way first in every second round, since the machine may get slower or faster.
        for name in ("monkeylib", "other") if number % 2 == 0 else ("other", "monkeylib"):
            work = getattr(pair, name)
            total = sum(seconds_of(work)[0] for _ in range(pair.repeats))
            seconds[name].append(total / pair.repeats)
        if pair.operations is not None:
            rates.append(gemm_rate(pair.dtype))

    row = ratio_row(path, against, size, "s", seconds["monkeylib"], seconds["other"], target)
    if pair.operations is not None:
        for name, values in seconds.items():
            shares = [pair.operations / value / rate for value, rate in zip(values, rates, strict=True)]
            row[f"share of GEMM, {name}"] = statistics.median(shares)
        row["GEMM, GFLOP/s"] = statistics.median(rates) / 1e9
    if row["met"] is False:
        row["limits"] = {name: shares_of_time(getattr(pair, name)) for name in ("monkeylib", "other")}
    return row


def compare_memory(
    path: str, against: str, size: str, build: Callable[[], Pair], target: float | None
) -> Row:
    """Return the row of a path on which memory is compared; `build` makes the pair, in each process anew."""

    def peak(name: str) -> Callable[[], float]:
        def measure() -> float:
            work = getattr(build(), name)
            return peak_megabytes(work)

        return measure

    values = {name: [in_process(peak(name))] for name in ("monkeylib", "other")}
    return ratio_row(path, against, size, "MB", values["monkeylib"], values["other"], target)


def peak_megabytes(work: Callable[[], Any]) -> float:
    """Return how much memory some work needs at most beyond what the process holds before it.

    From here on, the allocator of the process gives freed memory back.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        pass
    else:
        for parameter, value in _MALLOC_DEFAULTS.items():
            libc.mallopt(parameter, value)
        # What was freed while the model was built would hide what the work needs.
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak counts from here
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    """Return a field of this process's memory in kB."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise ValueError(f"the system states no {field} of a process: memory is measured on Linux")


def require_same(path: str, pair: Pair) -> None:
    """Check that both ways give the same result, which also warms up.

    Raises:
        ValueError: they don't.
    """
    if not pair.same(pair.monkeylib(), pair.other()):
        raise ValueError(f"{path}: both ways should give the same result, and differ")


def ratio_row(
    path: str,
    against: str,
    size: str,
    unit: str,
    monkeylib: Sequence[float],
    other: Sequence[float],
    target: float | None,
) -> Row:
    """Return the row of values that were measured in rounds: less is better."""
    ratios = [second / first for first, second in zip(monkeylib, other, strict=True)]
    ratio = statistics.median(ratios)
    return {
        "path": path,
        "against": against,
        "size": size,
        "unit": unit,
        "monkeylib": statistics.median(monkeylib),
        "other": statistics.median(other),
        "ratio": ratio,
        "lowest": min(ratios),
        "highest": max(ratios),
        "rounds": len(ratios),
        "target": target,
        "met": None if target is None else ratio >= target,
    }


def limit_row(
    path: str, size: str, unit: str, values: Sequence[float], target: float, is_upper: bool = True
) -> Row:
    """Return the row of a path without an alternative: a value that should stay below or above a target."""
    value = statistics.median(values)
    return {
        "path": path,
        "against": "–",
        "size": size,
        "unit": unit,
        "monkeylib": value,
        "lowest": min(values),
        "highest": max(values),
        "rounds": len(values),
        "target": target,
        "target is": "at most" if is_upper else "at least",
        "met": value <= target if is_upper else value >= target,
    }


def in_process(work: Callable[[], Any]) -> Any:
    """Return what some work returns in a process of its own, which begins with what is imported here.

    Raises:
        RuntimeError: it failed, with its traceback.
    """
    receiving, sending = multiprocessing.Pipe(duplex=False)

    def run() -> None:
        try:
            sending.send((work(), None))
        except BaseException:
            sending.send((None, traceback.format_exc()))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    sending.close()
    try:
        result, failure = receiving.recv()
    except EOFError:
        result, failure = None, "the process ended without a result: was there enough memory?"
    process.join()
    if failure is not None:
        raise RuntimeError(failure)
    return result


def machine() -> dict[str, object]:
    """Return what the numbers depend on, without names of hosts or users."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    models = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[1], 1),  # programs that wanted a core, over the last five minutes
        "torch": torch.__version__,
    }


def write_json(rows: Sequence[Row], path: Path, settings: Settings, earlier_load: float = 0) -> None:
    """Write what was measured, numbers to four digits.

    Args:
        rows: of this run, and perhaps of an earlier one.
        path: of the file.
        settings: how much was measured.
        earlier_load: of the machine in the earlier run; the larger load is stated.
    """
    current = machine()
    document = {
        "machine": {**current, "load": max(float(str(current["load"])), earlier_load)},
        "quick": settings.is_quick,
        "rows": [{name: _round(value) for name, value in row.items()} for row in rows],
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _round(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _round(entry) for name, entry in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
