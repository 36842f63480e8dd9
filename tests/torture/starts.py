"""Starts of two processes that train together: each has to reach its end, and none may stand still."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.support.training_processes import DDP, HANG_SECONDS, TrainingRun
from tests.torture.cases import Case

STEPS = 2


def cases(count: int) -> Iterator[Case]:
    """Yield a number of starts."""
    for number in range(1, count + 1):
        yield Case("starts", f"start {number} of two processes", _start)


def _start(folder: Path) -> str:
    """Train two steps with DDP. Processes that stand still are aborted, and their stacks are the outcome."""
    run = TrainingRun(folder, **DDP, steps=STEPS)

    assert run.wait(), f"it stood still for {HANG_SECONDS} s: {run.output()}"
    codes = [process.exitcode for process in run.processes]
    assert codes == [0, 0], f"exit codes {codes}: {run.output()}"
    assert (folder / "run" / "model" / "model.safetensors").is_file(), "it left no model"
    return f"{STEPS} steps and a model in {run.seconds():.0f} s"
