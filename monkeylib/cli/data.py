"""The command line's `monkeylib data`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from monkeylib import resources

app = typer.Typer(
    no_args_is_help=True,
    help="Training data and benchmarks: what mixtures hold, public sets as records, what is there.",
)

_SENTENCES = 10


@app.command()
def inspect(
    mixture: Annotated[str, typer.Argument(help="A mixture's YAML file, or the name of a shipped one.")],
    profile: Annotated[str, typer.Option(help="Whose tokens are counted.")] = resources.COMMITTED_PROFILE,
    limit: Annotated[int, typer.Option(min=0, help="Rows of each set to look at; 0 for all.")] = 1000,
    sheet: Annotated[Path | None, typer.Option(help="PNG file of images with prompt and answer.")] = None,
) -> None:
    """Print rows, lengths, truncations and broken images of a mixture, and draw some of its images."""
    from rich.console import Console

    from monkeylib import profiles, tables
    from monkeylib.data import inspect as looking
    from monkeylib.data import mixture as mixtures
    from monkeylib.plots.records import contact_sheet
    from monkeylib.profiles.build import build_processor

    recipe = profiles.load(profile)
    loaded = mixtures.load(mixture)
    processor = build_processor(recipe)
    longest = recipe.training.max_length
    reports = looking.inspect(loaded, processor, longest, limit or None, progress=sys.stderr.isatty())
    title = f"{loaded.name}: {len(loaded)} rows an epoch; tokens of a row, cut at {longest} ({profile})"
    tables.show([report.row() for report in reports], title, Console())
    found = looking.problems(reports)
    for sentence in found[:_SENTENCES]:
        print(sentence)
    if len(found) > _SENTENCES:
        print(f"and {len(found) - _SENTENCES} more")
    path = sheet or resources.cache() / "sheets" / f"{loaded.name}.png"
    examples = [record for report in reports for record in report.examples]
    print(f"images: {resources.display_path(contact_sheet(examples, path))}")


@app.command()
def convert(
    name: Annotated[str, typer.Argument(help="A public set; `monkeylib data sets` lists them.")],
    folder: Annotated[Path, typer.Argument(help="Folder of its official download.")],
    out: Annotated[Path, typer.Option(help="JSON file of the records.")],
) -> None:
    """Turn the official download of a public set into records."""
    from monkeylib.data import public

    entry = public.find(name)
    done = public.convert(entry, folder, out)
    left = "".join(f", {count} left out ({reason})" for reason, count in done.left_out.items())
    print(
        f"{resources.display_path(out)}: {done.written} records{left}; their images: {folder / entry.images}"
    )


@app.command("sets")
def list_sets() -> None:
    """List the public sets of the paper, where they come from, and what could not be checked of them."""
    from monkeylib.data.public import SETS

    for entry in SETS.values():
        print(f"{entry.name}: {entry.home} ({entry.licence})")
        print(f"    reads {', '.join(entry.files)}; images in {entry.images or 'the same folder'}")
        if entry.unverified:
            print(f"    unverified: {entry.unverified}")


@app.command()
def benchmarks(
    data: Annotated[
        Path | None, typer.Option(help="Folder of the downloads; MONKEYLIB_DATA by default.")
    ] = None,
) -> None:
    """List the benchmarks of the paper, where their files come from, and which of them are there."""
    from monkeylib.evaluation.benchmarks import BENCHMARKS, available

    there = available(data)
    print(f"downloads: {resources.display_path(data or resources.benchmarks())}")
    for name, benchmark in BENCHMARKS.items():
        if (entry := benchmark.entry) is None:
            continue
        print(f"{name}{'' if name in there else ' (missing)'}: {benchmark.source} ({benchmark.licence})")
        released = name.startswith("released-")
        files, images = (
            ([entry.released.file], "named from the same folder")
            if released
            else ([f"{entry.name.removesuffix('-val')}/{file}" for file in entry.files], entry.images)
        )
        print(f"    {benchmark.split}; reads {', '.join(files)}; images {images or 'beside them'}")
        if entry.unverified and not released:
            print(f"    unverified: {entry.unverified}")
