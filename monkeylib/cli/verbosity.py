"""`-q` and `-v`: options that every command has."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from monkeylib import progress

Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print results and errors alone: no notes, no bars.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Also say which model runs where, and how long it takes.")
]
_OPTIONS = {"quiet": Quiet, "verbose": Verbose}


def set_verbosity(quiet: bool, verbose: bool) -> None:
    """Set how much is printed; without either option it stays, since they may stand before the command, too.

    Raises:
        ValueError: both are given.
    """
    if quiet and verbose:
        raise ValueError("--quiet and --verbose contradict each other: leave one of them out")
    if quiet or verbose:
        progress.set_verbosity(verbose - quiet)


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that also takes `--quiet` and `--verbose`."""

    @functools.wraps(command)
    def run(*, quiet: bool = False, verbose: bool = False, **arguments: Any) -> None:
        set_verbosity(quiet, verbose)
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
