"""Options that several commands share, and the default checkpoint."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monkeylib import resources

if TYPE_CHECKING:
    from monkeylib.inference import Monkey
    from monkeylib.tiling import Grid

Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--model", help="Checkpoint folder. Default: the trained nano model, or else its base model."
    ),
]
Profile = Annotated[
    str,
    typer.Option("--profile", help="Preset of all sizes: smoke, nano, small, paper-896, ... or a YAML file."),
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Maximum length of an answer, in tokens.")]


def default_checkpoint() -> Path:
    """Return the trained nano model, or else its base model with a note on standard error."""
    # Where notebook 05 leaves it.
    trained = resources.runs(resources.COMMITTED_PROFILE) / "monkey" / "model"
    if (trained / "config.json").exists():
        return trained

    base = resources.models() / "nano-base"
    print(
        "monkeylib: no model has been trained yet (`make reproduce` trains one), "
        f"so {resources.display_path(base)} answers.",
        file=sys.stderr,
    )
    return base


def hide_loading_bars() -> None:
    """Hide the bars of transformers, which reads and writes weights too quickly for one."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def load_checkpoint(folder: Path | None) -> "Monkey":
    """Load a checkpoint, the default one if none is named."""
    from monkeylib.inference import load_model

    hide_loading_bars()
    return load_model(folder or default_checkpoint())


def read_grid(text: str) -> "Grid | None":
    """Return the grid of ROWSxCOLUMNS; None for an empty text."""
    from monkeylib.tiling import parse_grid

    return parse_grid(text) if text else None
