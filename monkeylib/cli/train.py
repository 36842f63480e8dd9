"""`monkeylib train`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from monkeylib import resources

if TYPE_CHECKING:
    from monkeylib.profiles import Profile
    from monkeylib.training.module import Data


def train(
    profile: Annotated[
        str, typer.Option(help="Size of everything: smoke, nano, small, paper-896, ... or a YAML file.")
    ] = resources.COMMITTED_PROFILE,
    data: Annotated[str, typer.Option(help="A mixture's name or YAML file; the nano world by default.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None,
    base: Annotated[Path | None, typer.Option(help="Checkpoint to start from, not the profile's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps, not the profile's.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Times to go through the data, not steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows of a step over all devices.")] = None,
    per_device: Annotated[int | None, typer.Option(min=1, help="Rows of a device at once.")] = None,
    devices: Annotated[int, typer.Option(min=1, help="Devices of each node.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes.")] = 1,
    strategy: Annotated[
        Literal["auto", "ddp", "fsdp"] | None, typer.Option(help="How devices share the work.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad records out and list them in skipped.jsonl.")
    ] = False,
) -> None:
    """Fine-tune a profile's base model into Monkey; an interrupted run goes on at its last checkpoint."""
    from lightning.pytorch.utilities import rank_zero_only

    from monkeylib import profiles
    from monkeylib.training import finetune

    changes = {"steps": steps, "batch_size": batch_size, "per_device": per_device, "strategy": strategy}
    recipe = _changed(profiles.load(profile), base, changes)
    folder = out or resources.runs(recipe.name) / (Path(data).stem if data else "monkey")
    rows = None
    if data:
        recipe, rows = _data(recipe, data, epochs, folder / "skipped.jsonl" if skip_bad else None)
    elif epochs is not None:
        raise ValueError("The nano world has no end to go through: say --steps, or --data with --epochs.")
    machines = finetune.Machines(devices, nodes)
    checkpoint = finetune.run(recipe, folder, sys.stderr.isatty(), rows, machines)
    if rank_zero_only.rank == 0:
        _report(checkpoint, rows)


def _changed(recipe: "Profile", base: Path | None, changes: dict[str, Any]) -> "Profile":
    """The profile from another base, with those fields of training that are not None."""
    if base is not None:
        recipe = recipe.model_copy(update={"base_checkpoint": str(base.resolve())})
    return recipe.retrained(**{name: value for name, value in changes.items() if value is not None})


def _report(checkpoint: Path, data: "Data | None") -> None:
    print(f"trained model: {resources.display_path(checkpoint)}")
    if data is not None and data.skipped is not None and (left := data.skipped.listed()):
        print(f"left out {len(left)} bad records, listed in {resources.display_path(data.skipped.file)}")


def _data(recipe: "Profile", name: str, epochs: float | None, skipped: Path | None) -> "tuple[Profile, Data]":
    """The mixture's data, and the recipe with the steps that its epochs take."""
    from monkeylib.data import mixture
    from monkeylib.training.data import Skipped
    from monkeylib.training.module import Data

    mixed = mixture.load_mixture(name)
    rows = None
    if epochs is not None:
        rows = round(epochs * len(mixed))
        if rows < 1:
            raise ValueError(f"--epochs {epochs} of {len(mixed)} records is not even one: say more.")
        recipe = recipe.retrained(steps=-(-rows // recipe.training.batch_size))
    validation = mixed.validation
    data = Data(
        mixed,
        validation,
        mixed.digest,
        rows=rows,
        validation_rows=None if validation is None else len(validation),
        skipped=None if skipped is None else Skipped(skipped),
    )
    return recipe, data
