"""`monkeylib convert`: checkpoints between monkeylib's, the released and peft's layout."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from monkeylib import resources
from monkeylib.cli import options


def convert(
    source: Annotated[Path, typer.Argument(help="Checkpoint folder, in the released or monkeylib's layout.")],
    target: Annotated[Path, typer.Argument(help="New folder.")],
    to: Annotated[
        Literal["monkeylib", "released", "peft"] | None,
        typer.Option(help="Layout to write. Default: monkeylib from released, released from monkeylib."),
    ] = None,
    grid: Annotated[str, typer.Option(help="Tiles as ROWSxCOLUMNS. Default for Qwen-VL: 2x2.")] = "",
) -> None:
    """Convert a released Monkey or Qwen-VL checkpoint to monkeylib's layout or back; export LoRA to peft."""
    from monkeylib.checkpoints import convert as conversion
    from monkeylib.checkpoints.released import is_released

    tiles = options.read_grid(grid)
    # By default the other layout.
    if to is None:
        to = "monkeylib" if is_released(source) else "released"

    if to == "monkeylib":
        conversion.convert_from_released(source, target, tiles, progress=True)
    elif grid:
        raise ValueError(f"--grid is for reading the released layout, not for writing {to}: leave it out")
    elif to == "released":
        conversion.convert_to_released(source, target, progress=True)
    else:
        conversion.export_lora(source, target)

    print(f"wrote {resources.display_path(target)}")
