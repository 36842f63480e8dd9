"""`-q` and `-v`: options that every command has."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from monkeylib import progress

_OPTIONS = {
    "quiet": Annotated[
        bool, typer.Option("--quiet", "-q", help="Print results and errors alone: no notes, no bars.")
    ],
    "verbose": Annotated[
        bool, typer.Option("--verbose", "-v", help="Also say which model runs where, and how long it takes.")
    ],
}


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that also takes `--quiet` and `--verbose`."""

    @functools.wraps(command)
    def run(*, quiet: bool = False, verbose: bool = False, **arguments: Any) -> None:
        if quiet and verbose:
            raise ValueError("--quiet and --verbose contradict each other: leave one of them out")
        progress.set_verbosity(verbose - quiet)
        command(**arguments)

    # What typer reads.
    signature = inspect.signature(command)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in _OPTIONS.items()
    ]
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])
    run.__annotations__ = {**command.__annotations__, **_OPTIONS}
    return run
