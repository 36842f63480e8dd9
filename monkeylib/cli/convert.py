"""`monkeylib convert`: checkpoints between monkeylib's, the released and peft's layout."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from monkeylib import resources
from monkeylib.cli import options

if TYPE_CHECKING:
    from monkeylib.tiling import Grid

Layout = Literal["monkeylib", "released", "peft", "onnx", "torch"]


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="Checkpoint folder, in the released or monkeylib's layout, or its name on a hub; a training "
            "run, or a checkpoint in it."
        ),
    ],
    target: Annotated[Path, typer.Argument(help="New folder.")],
    to: Annotated[
        Layout | None,
        typer.Option(
            help="Layout to write. Default: monkeylib from released or a training run, released from "
            "monkeylib. onnx and torch: graphs of the visual encoder and of the complete model for one grid."
        ),
    ] = None,
    grid: Annotated[str, typer.Option(help="Tiles as ROWSxCOLUMNS. Default for Qwen-VL: 2x2.")] = "",
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint of a training run: last, best or a step. Default: the trained model, or last."
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON: source, target and layout.")
    ] = False,
) -> None:
    """Convert a released Monkey or Qwen-VL checkpoint to monkeylib's layout or back; export LoRA to peft;
    make a model of a training run."""
    from monkeylib.checkpoints import hub

    with options.lines_of_json_alone(json):
        folder, target = hub.fetch_model(options.find_model(source)), resources.to_path(target)
        layout = _write(folder, target, to, grid, checkpoint)

    if json:
        paths = {"source": resources.display_path(folder), "target": resources.display_path(target)}
        options.print_json({**paths, "layout": layout})
    else:
        print(f"wrote {resources.display_path(target)}")


def _write(source: Path, target: Path, to: Layout | None, grid: str, checkpoint: str | None) -> Layout:
    """Convert a checkpoint, and return the layout that was written.

    Raises:
        ValueError: options that do not fit the source, or each other.
    """
    from monkeylib.checkpoints import convert as conversion
    from monkeylib.checkpoints.released import is_released
    from monkeylib.tiling import AutoGrid
    from monkeylib.training import export

    export.require_not_raised(source)
    if export.is_from_training(source):
        if grid:
            raise ValueError(
                "--grid is for reading the released layout, not for a training run: leave it out"
            )
        if to in ("onnx", "torch"):
            raise ValueError(
                "graphs are made of a complete model: convert the training run first, without --to"
            )
        to = to or "monkeylib"
        export.convert_training(source, target, to, checkpoint)
        return to

    if checkpoint is not None:
        raise ValueError(f"{resources.display_path(source)} is no training run: leave out --checkpoint")

    is_lora_alone = not (source / "config.json").exists() and (
        any(source.glob("adapter_config.json")) or any(source.glob("*/adapter_config.json"))
    )
    if is_lora_alone:
        raise ValueError(
            f"{resources.display_path(source)} holds LoRA in peft's layout, without the model it belongs to: "
            "name the run or the checkpoint that it was exported from"
        )

    tiles = options.read_grid(grid)
    if isinstance(tiles, AutoGrid):
        raise ValueError(
            "a model in the released layout has one grid for all images: name it as --grid ROWSxCOLUMNS"
        )
    # By default the other layout.
    if to is None:
        to = "monkeylib" if is_released(source) else "released"

    if to in ("onnx", "torch"):
        _export_graphs(source, target, to, tiles)
    elif to == "monkeylib":
        conversion.convert_from_released(source, target, tiles, progress=True)
    elif grid:
        raise ValueError(f"--grid is for reading the released layout, not for writing {to}: leave it out")
    elif to == "released":
        conversion.convert_to_released(source, target, progress=True)
    else:
        conversion.export_lora(source, target)
    return to


def _export_graphs(source: Path, target: Path, to: Literal["onnx", "torch"], grid: "Grid | None") -> None:
    """Write the graphs of a checkpoint for a grid, by default its own."""
    from monkeylib.checkpoints.graphs import export_graphs
    from monkeylib.inference import load_model

    options.hide_loading_bars()
    monkey = load_model(source, device="cpu", dtype="float32")
    export_graphs(monkey.model, monkey.processor, target, to, grid)
