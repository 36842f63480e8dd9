"""`monkeylib data`: inspect mixtures, convert public datasets, list datasets and benchmarks."""

from pathlib import Path
from typing import Annotated

import typer

from monkeylib import resources
from monkeylib.cli import options

app = typer.Typer(
    no_args_is_help=True, help="Inspect training data, convert public datasets, list benchmarks."
)

_MAX_PROBLEMS = 10  # that are printed


@app.command()
def inspect(
    mixture: Annotated[str, typer.Argument(help="YAML file of a mixture, or the name of a shipped one.")],
    profile: options.Profile = resources.COMMITTED_PROFILE,
    limit: Annotated[int, typer.Option(min=0, help="Records to inspect per dataset; 0 for all.")] = 1000,
    sheet: Annotated[
        Path | None, typer.Option(help="PNG file of the contact sheet: images with prompt and answer.")
    ] = None,
    assignments: options.Set = None,
) -> None:
    """Report lengths, truncations, lost characters and broken images of a mixture; write a contact sheet."""
    from rich.console import Console

    from monkeylib import tables
    from monkeylib.data import inspect as inspection
    from monkeylib.data import mixture as mixtures
    from monkeylib.plots.images import contact_sheet
    from monkeylib.profiles.build import build_processor

    if sheet is not None:
        resources.require_new(sheet)

    # The profile decides how long an example may be, and how many tokens an image has.
    settings = options.load_profile(profile, assignments)
    loaded = mixtures.load_mixture(mixture)
    max_length = settings.training.max_length
    # 0 on the command line means no limit.
    reports = inspection.inspect_mixture(
        loaded, build_processor(settings), max_length, limit or None, progress=True
    )

    title = (
        f"{loaded.name}: {len(loaded)} records per epoch; lengths in tokens, cut at {max_length} ({profile})"
    )
    tables.print_table([report.row() for report in reports], title, Console())

    for report in reports:
        if report.lost is not None and report.lost.example:
            print(f"{report.name}: {report.lost.describe()}")

    problems = inspection.list_problems(reports)
    for problem in problems[:_MAX_PROBLEMS]:
        print(problem)
    if len(problems) > _MAX_PROBLEMS:
        print(f"and {len(problems) - _MAX_PROBLEMS} more")

    path = sheet or resources.cache() / "sheets" / f"{loaded.name}.png"
    records = [record for report in reports for record in report.examples]
    print(f"images: {resources.display_path(contact_sheet(records, path))}")


@app.command()
def convert(
    name: Annotated[str, typer.Argument(help="A public dataset; `monkeylib data datasets` lists them.")],
    folder: Annotated[Path, typer.Argument(help="Folder of its official download.")],
    out: Annotated[Path, typer.Option(help="JSON file of the records.")],
) -> None:
    """Convert the official download of a public dataset into training records."""
    from monkeylib.data.convert import convert_dataset
    from monkeylib.data.dataset_cards import training_card

    folder, out = options.expand_home(folder), options.expand_home(out)
    card = training_card(name)
    conversion = convert_dataset(card, folder, out)
    # Why records were left out, and how many.
    left_out = "".join(f", {count} left out ({reason})" for reason, count in conversion.left_out.items())
    images = folder / card.train.images
    print(
        f"{resources.display_path(out)}: {conversion.num_records} records{left_out}; their images: {images}"
    )


@app.command("datasets")
def list_datasets() -> None:
    """List the public datasets that Monkey is trained on, with their sources and what is unverified."""
    from monkeylib.data.dataset_cards import training_cards

    for card in training_cards().values():
        print(f"{card.name}: {card.home} ({card.licence})")
        print(f"    reads {', '.join(card.train.files)}; images in {card.train.images or 'the same folder'}")
        if card.train.unverified:
            print(f"    unverified: {card.train.unverified}")


@app.command()
def benchmarks(
    data: Annotated[
        Path | None, typer.Option(help="Folder of the downloads. Default: MONKEYLIB_DATA.")
    ] = None,
) -> None:
    """List the benchmarks of the paper, where their files come from, and which of them are available."""
    from monkeylib.evaluation.benchmarks import BENCHMARKS, available

    # Those whose files are in the folder.
    available_names = available(data)
    print(f"downloads: {resources.display_path(data or resources.benchmarks())}")

    for name, benchmark in BENCHMARKS.items():
        if benchmark.card is None:  # synthetic data
            continue
        part = benchmark.card.test
        missing = "" if name in available_names else " (missing)"
        print(f"{name}{missing}: {benchmark.source} ({benchmark.licence})")

        # The released evaluation has one prepared file per benchmark, the official download several.
        if name.startswith("released-"):
            files = [part.released.file]
            images = "named from the same folder"
        else:
            files = [f"{benchmark.card.folder}/{file}" for file in part.files]
            images = part.images or " or ".join(part.options.get("image_folders", ()))
        print(f"    {benchmark.split}; reads {', '.join(files)}; images {images or 'beside them'}")
        if part.unverified and not name.startswith("released-"):
            print(f"    unverified: {part.unverified}")
