"""Which checkpoint the command line uses."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from monkeylib import resources

Option = Annotated[
    Path | None, typer.Option(help="Checkpoint folder; by default the trained nano model, else its base.")
]


def chosen(model: Path | None) -> Path:
    """The checkpoint to use: the one named, else the trained nano model, else its base, which a note says."""
    if model is not None:
        return model
    trained = run_of(resources.COMMITTED_PROFILE) / "model"
    if (trained / "config.json").exists():
        return trained
    base = resources.models() / "nano-base"
    print(
        f"monkeylib: no model is trained yet (`make reproduce` does it), so {resources.display_path(base)} answers.",
        file=sys.stderr,
    )
    return base


def run_of(profile: str) -> Path:
    """Folder of a profile's fine-tuning, which notebook 05 uses too."""
    return resources.runs(profile) / "monkey"
