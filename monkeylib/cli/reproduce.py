"""`monkeylib reproduce`: run the series of notebooks."""

from functools import partial
from typing import Annotated

import typer

from monkeylib import resources
from monkeylib.cli import options
from monkeylib.progress import say_error


def reproduce(
    profile: options.Profile = resources.COMMITTED_PROFILE,
    seed: Annotated[int, typer.Option(help="Seed of training and sampling.")] = 0,
    only: Annotated[str, typer.Option(help="Run only notebooks whose names begin so, as in 05.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Also run notebooks that are up to date.")] = False,
    update_notebooks: Annotated[
        bool,
        typer.Option(
            "--update-notebooks", help="Then update the committed notebooks and the results that pages state."
        ),
    ] = False,
) -> None:
    """Run the notebooks in order, skipping those that haven't changed since their last run."""
    from rich.console import Console

    from monkeylib import profiles
    from monkeylib.reproduce import series

    # Before anything runs, so that a wrong argument is reported at once.
    profiles.load_profile(profile)
    if update_notebooks and (profile, seed) != (resources.COMMITTED_PROFILE, 0):
        raise ValueError(
            f"The committed notebooks are those of profile {resources.COMMITTED_PROFILE} and seed 0."
        )
    if update_notebooks and resources.is_installed():
        raise ValueError("--update-notebooks is for a clone of the repository, which this is not")

    # Each line appears at once, also in a log file: a notebook may run for minutes.
    try:
        series.run_series(profile, seed, only=only, force=force, log=partial(print, flush=True))
    except series.NotebookFailed as error:
        say_error(str(error))
        raise typer.Exit(1) from error

    if update_notebooks:
        _update_committed_files()
    series.print_report(profile, Console())


def _update_committed_files() -> None:
    """Write the executed notebooks and the results that pages state into the repository."""
    from monkeylib.reproduce import headers, series
    from monkeylib.reproduce.tables import PAGES, update_page

    pages = [resources.REPOSITORY / page for page in PAGES]
    paths = [*series.update_notebooks(), *pages]
    headers.write_minutes()
    headers.write_headers()
    for page in pages:
        update_page(page)

    print("wrote", *(resources.display_path(path) for path in paths))
