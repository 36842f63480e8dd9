"""A training run that a user of a notebook interrupts: its cell, and how far it has come."""

from pathlib import Path

from monkeylib.training.checkpointing import list_checkpoints

CELL = """
from monkeylib.profiles import load_profile
from monkeylib.training import finetune
profile = load_profile("smoke").with_training(steps=2000, save_every_steps=1)
finetune.run(profile, {folder!r}, stop_after={stop_after})
"""


def cell(folder: Path | str, stop_after: int | None = None) -> str:
    """Return a cell that trains in a folder, two thousand steps unless it stops before."""
    return CELL.format(folder=str(folder), stop_after=stop_after)


def last_step(folder: Path) -> int:
    """Return the last step that a run has saved; 0 if none."""
    return max((int(path.stem.removeprefix("step-")) for path in list_checkpoints(folder)), default=0)
