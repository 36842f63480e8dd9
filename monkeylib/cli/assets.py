"""The command line's `monkeylib assets`."""

from typing import Annotated

import typer

from monkeylib import resources

app = typer.Typer(no_args_is_help=True, help="Models and image sets that aren't part of the repository.")


@app.command("list")
def list_assets() -> None:
    """List the assets with their size, licence and whether they are here."""
    from rich.console import Console

    from monkeylib import assets, tables

    rows = [
        {
            "name": asset.name,
            "megabytes": round(asset.bytes / 1e6),
            "licence": asset.licence,
            "here": "no" if assets.located(asset) is None else "yes",
        }
        for asset in assets.listing()
    ]
    tables.print_table(rows, "data/assets.toml", Console())


@app.command("fetch")
def fetch_assets(
    names: Annotated[list[str] | None, typer.Argument(help="Names; all by default.")] = None,
) -> None:
    """Fetch assets and verify their checksums; what is here already is only verified."""
    from monkeylib import assets

    for name in names or [asset.name for asset in assets.listing()]:
        print(f"{name}: {resources.display_path(assets.fetch(name))}", flush=True)
