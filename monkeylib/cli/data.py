"""`monkeylib data`: inspect mixtures, convert public datasets, list datasets and benchmarks."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monkeylib import resources
from monkeylib.cli import options
from monkeylib.progress import say

if TYPE_CHECKING:
    from monkeylib.data.records import Record

app = typer.Typer(
    no_args_is_help=True, help="Inspect training data, convert public datasets, list benchmarks."
)

_MAX_PROBLEMS = 10  # that are printed


@app.command()
def inspect(
    mixture: Annotated[
        str,
        typer.Argument(help="YAML file of a mixture, the name of a shipped one, or a file of records."),
    ],
    profile: options.Profile = resources.COMMITTED_PROFILE,
    limit: Annotated[int, typer.Option(min=0, help="Records to inspect per dataset; 0 for all.")] = 1000,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images of a file of records. Default: its own.")
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="PNG file of the contact sheet: images with prompt and answer. Default: a file in "
            "data/cache/sheets, whose path is printed."
        ),
    ] = None,
    assignments: options.Set = None,
) -> None:
    """Say what data is taken for, show three records as the model will read them, and report lengths,
    truncations, lost characters and broken images; write a contact sheet."""
    from rich.console import Console

    from monkeylib import tables
    from monkeylib.data import inspect as inspection
    from monkeylib.data import mixture as mixtures
    from monkeylib.plots.images import contact_sheet
    from monkeylib.profiles.build import build_processor

    sheet = sheet and resources.to_path(sheet)
    if sheet is not None:
        resources.require_new(sheet)

    # The profile decides how long an example may be, and how many tokens an image has.
    settings = options.load_profile(profile, assignments)
    loaded = mixtures.load_mixture(mixture, images and resources.to_path(images))
    processor = build_processor(settings)
    max_length = settings.training.max_length
    # 0 on the command line means no limit.
    reports = inspection.inspect_mixture(loaded, processor, max_length, limit or None, progress=True)

    title = (
        f"{loaded.name}: {len(loaded)} records per epoch; lengths in tokens, cut at {max_length} ({profile})"
    )
    tables.print_table([report.row() for report in reports], title, Console())

    for report in reports:
        for remark in report.remarks():
            print(remark)
        for record in report.first_records:
            print(f"    {inspection.show_record(record, processor)}")
    if any(report.first_records for report in reports):
        print("records as the model reads them, their labels between « and »")

    problems = inspection.list_problems(reports)
    for problem in problems[:_MAX_PROBLEMS]:
        print(problem)
    if len(problems) > _MAX_PROBLEMS:
        print(f"and {len(problems) - _MAX_PROBLEMS} more")

    records = [record for report in reports for record in report.examples]
    # Texts alone have no contact sheet, unless one is named.
    if records or sheet is not None or problems:
        path = sheet or _default_sheet(mixture, loaded.name)
        try:
            print(f"images: {resources.display_path(contact_sheet(records, path))}")
        except OSError as error:
            # Nobody has named one.
            if sheet is not None or resources.unwritable_sentence(error, path.parent) is None:
                raise
            say(f"no contact sheet: {error}; --sheet names another file")


def _default_sheet(mixture: str, name: str) -> Path:
    """Return the file of a mixture's contact sheet.

    Files of the user's may have one name in several folders, or with several endings: their paths tell the
    sheets apart.
    """
    from monkeylib.data import mixture as mixtures
    from monkeylib.digests import text_digest

    file = mixtures.find_mixture(mixture)
    if file.parent != mixtures.FOLDER:
        name = f"{name}-{text_digest(str(file.resolve()))[:8]}"
    return resources.cache() / "sheets" / f"{name}.png"


@app.command()
def convert(
    data: Annotated[
        str,
        typer.Argument(
            help="A file of records, the YAML file of a mixture, or with FOLDER a public dataset; `monkeylib "
            "data datasets` lists them."
        ),
    ],
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of a public dataset's official download.")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            help="File of the records: .json (LLaVA), .jsonl (messages), .tar (WebDataset) or .parquet."
        ),
    ] = ...,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images of a file of records. Default: its own.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad records out and count them.")
    ] = False,
) -> None:
    """Convert records into another format, or a public dataset's official download into training records."""
    out = resources.to_path(out)
    if folder is None:
        _convert_records(data, out, images and resources.to_path(images), skip_bad)
    else:
        _convert_download(data, resources.to_path(folder), out)


def _convert_records(data: str, out: Path, images: Path | None, skip_bad: bool) -> None:
    from monkeylib.data import mixture as mixtures
    from monkeylib.data import writers
    from monkeylib.data.records import BadRecord
    from monkeylib.progress import Progress

    resources.require_new(out)
    writers.format_of(out)
    mixture = mixtures.load_mixture(data, images)
    num_records = sum(len(records) for records in mixture.datasets)
    problems: list[str] = []

    def readable() -> Iterator["Record"]:
        for records in mixture.datasets:
            for number in range(len(records)):
                try:
                    yield records[number]
                except BadRecord as error:
                    if not skip_bad:
                        raise
                    problems.append(str(error))

    with Progress("records", enabled=True) as bars:
        bars.add_task("convert", num_records)
        result = writers.write_records(readable(), out, advance=lambda: bars.advance("convert"))

    left_out = [f"{count} left out ({reason})" for reason, count in result.left_out.items()]
    if problems:
        left_out.append(f"{len(problems)} bad ones left out")
    print(", ".join([f"{resources.display_path(out)}: {result.num_records} records", *left_out]))
    for sentence in (*mixture.left_out(), *problems[:_MAX_PROBLEMS]):
        print(sentence)

    if result.images is not None:
        print(f"images that had no file: {resources.display_path(result.images)}")
    if result.num_with_prompt:
        print(
            f"{result.num_with_prompt} records have complete prompts instead of questions: train on them "
            "with `prompt: plain` in a mixture"
        )


def _convert_download(name: str, folder: Path, out: Path) -> None:
    from monkeylib.data.convert import convert_dataset
    from monkeylib.data.dataset_cards import training_card

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
