"""`monkeylib assets`: models and image sets that aren't part of the repository."""

from typing import Annotated

import typer

from monkeylib import resources
from monkeylib.cli import options

app = typer.Typer(no_args_is_help=True, help="Download models and image sets that aren't in the repository.")


@app.command("list")
def list_assets(
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each asset.")] = False,
) -> None:
    """List the assets with their size, their licence with notes on it, and whether they are available."""
    from rich.console import Console

    from monkeylib import assets, tables

    listed = assets.list_assets()
    rows = []
    for asset in listed:
        rows.append(
            {
                "name": asset.name,
                "megabytes": round(asset.bytes / 1e6),
                "licence": asset.licence,
                "available": "no" if assets.locate(asset) is None else "yes",
            }
        )

    if json:
        for asset, row in zip(listed, rows, strict=True):
            options.print_json({**row, "role": asset.role, "note": asset.note})
        return

    tables.print_table(rows, "data/assets.toml", Console())

    for asset in listed:
        if asset.note:
            print(f"{asset.name}: {asset.note}")


@app.command("fetch")
def fetch_assets(
    names: Annotated[list[str] | None, typer.Argument(help="Names of assets. Default: all.")] = None,
) -> None:
    """Download assets and verify their checksums; available ones are only verified."""
    from monkeylib import assets

    # Flushed: a download can take minutes.
    for name in names or [asset.name for asset in assets.list_assets()]:
        print(f"{name}: {resources.display_path(assets.fetch(name))}", flush=True)
