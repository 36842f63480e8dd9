"""`monkeylib reproduce`: run the series of notebooks."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from monkeylib import resources
from monkeylib.progress import say_error


def reproduce(
    profile: Annotated[str, typer.Option(help="Name of a profile (`monkeylib profiles` lists them).")] = (
        resources.COMMITTED_PROFILE
    ),
    seed: Annotated[
        int,
        typer.Option(
            help="Seed of training and sampling. Each seed has folders of its own, such as "
            "data/runs/nano-seed-7; data/runs/nano is that of seed 0."
        ),
    ] = 0,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run only notebooks whose names begin so, as in 05. May be repeated."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also run notebooks that are up to date.")] = False,
    publish: Annotated[
        bool,
        typer.Option(
            "--publish",
            help="Then copy results, figures and executed notebooks into the repository, with the numbers "
            "that its pages state.",
        ),
    ] = False,
) -> None:
    """Run the notebooks in order, skipping those that haven't changed since their last run.

    In a clone, results and figures of the profile nano lie in data/reproduced/, and are compared with those
    of the repository.
    """
    from rich.console import Console

    from monkeylib import profiles
    from monkeylib.reproduce import publishing, series

    # Before anything runs, so that a wrong argument is reported at once.
    if profile.endswith(".yaml"):
        raise ValueError(
            f"the notebooks run under one of monkeylib's profiles, got the file {profile}: name one of "
            f"{', '.join(profiles.profile_names())}, or train yours by `monkeylib train --profile {profile}`"
        )
    profiles.load_profile(profile).with_seed(seed)
    if publish and (profile, seed) != (resources.COMMITTED_PROFILE, 0):
        raise ValueError(
            f"The committed notebooks are those of profile {resources.COMMITTED_PROFILE} and seed 0."
        )
    if publish and resources.is_installed():
        raise ValueError("--publish is for a clone of the repository, which this is not")
    if publish and resources.outputs() != resources.REPOSITORY:
        raise ValueError(
            "--publish writes into the repository: unset MONKEYLIB_OUTPUTS, which names another folder"
        )

    if publish and only:
        others = [notebook for notebook in series.SERIES if not notebook.name.startswith(tuple(only))]
        with series.unpublished_results(profile, seed):
            publishing.require_current(others)

    with series.unpublished_results(profile, seed):
        # Each line appears at once, also in a log file: a notebook may run for minutes.
        try:
            series.run_series(profile, seed, only=only or (), force=force, log=partial(print, flush=True))
        except series.NotebookFailed as error:
            say_error(str(error))
            raise typer.Exit(1) from error

        series.print_report(profile, Console())
        for sentence in publishing.compare_with_published(profile, seed):
            print(sentence)
        written = publishing.publish() if publish else []

    if publish:
        resources.use_seed(seed)  # for the pages, too, whatever started this command
        paths = dict.fromkeys([*written, *_update_pages()])
        print("wrote", *(resources.display_path(path) for path in paths) or ["nothing: all is there already"])


def _update_pages() -> list[Path]:
    """Write the results that pages state, and headers and minutes of notebooks; return what has changed."""
    from monkeylib.reproduce import headers
    from monkeylib.reproduce.tables import PAGES, update_page

    pages = [resources.REPOSITORY / page for page in PAGES]
    paths = [*pages, headers.MINUTES, *sorted(resources.notebooks().glob("*.ipynb"))]
    before = {path: path.read_bytes() for path in paths if path.exists()}

    headers.write_minutes()
    headers.write_headers()
    for page in pages:
        update_page(page)
    return [path for path in paths if path.read_bytes() != before.get(path)]
