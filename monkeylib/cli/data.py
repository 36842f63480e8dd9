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
    from monkeylib.plots.images import contact_sheet
    from monkeylib.profiles.build import build_processor

    recipe = profiles.load(profile)
    loaded = mixtures.load_mixture(mixture)
    processor = build_processor(recipe)
    longest = recipe.training.max_length
    reports = looking.inspect_mixture(loaded, processor, longest, limit or None, progress=sys.stderr.isatty())
    title = f"{loaded.name}: {len(loaded)} rows an epoch; tokens of a row, cut at {longest} ({profile})"
    tables.print_table([report.row() for report in reports], title, Console())
    found = looking.list_problems(reports)
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
    from monkeylib.data.convert import convert_dataset
    from monkeylib.data.datasets import training_card

    card = training_card(name)
    conversion = convert_dataset(card, folder, out)
    left_out = "".join(f", {count} left out ({reason})" for reason, count in conversion.left_out.items())
    images = folder / card.train.images
    print(f"{resources.display_path(out)}: {conversion.written} records{left_out}; their images: {images}")


@app.command("sets")
def list_sets() -> None:
    """List the public datasets that Monkey is trained on, their sources, and what could not be checked."""
    from monkeylib.data.datasets import training_cards

    for card in training_cards().values():
        print(f"{card.name}: {card.home} ({card.licence})")
        print(f"    reads {', '.join(card.train.files)}; images in {card.train.images or 'the same folder'}")
        if card.train.unverified:
            print(f"    unverified: {card.train.unverified}")


@app.command()
def benchmarks(
    data: Annotated[
        Path | None, typer.Option(help="Folder of the downloads; MONKEYLIB_DATA by default.")
    ] = None,
) -> None:
    """List the benchmarks of the paper, where their files come from, and which of them are available."""
    from monkeylib.evaluation.benchmarks import BENCHMARKS, available

    available_names = available(data)
    print(f"downloads: {resources.display_path(data or resources.benchmarks())}")

    for name, benchmark in BENCHMARKS.items():
        if benchmark.card is None:  # synthetic data
            continue
        part = benchmark.card.test
        missing = "" if name in available_names else " (missing)"
        print(f"{name}{missing}: {benchmark.source} ({benchmark.licence})")

        if name.startswith("released-"):
            files = [part.released.file]
            images = "named from the same folder"
        else:
            folder = name.removesuffix("-val")
            files = [f"{folder}/{file}" for file in part.files]
            images = part.images
        print(f"    {benchmark.split}; reads {', '.join(files)}; images {images or 'beside them'}")
        if part.unverified and not name.startswith("released-"):
            print(f"    unverified: {part.unverified}")
