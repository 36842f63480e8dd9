"""`monkeylib doctor`: what will run on this machine, and how to mend what will not."""

from typing import Annotated

import typer

from monkeylib.cli import options


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each diagnosis.")] = False,
) -> None:
    """Say what will run on this machine, and how to mend what will not.

    Nothing is downloaded or written. The exit code is 1 where the core itself is not complete.
    """
    from rich.console import Console

    from monkeylib.doctor import diagnose
    from monkeylib.tables import print_table

    diagnoses = diagnose()
    if json:
        for diagnosis in diagnoses:
            options.print_json(diagnosis.to_dict())
    else:
        console = Console()
        for area in dict.fromkeys(diagnosis.area for diagnosis in diagnoses):
            rows = [diagnosis.to_dict() for diagnosis in diagnoses if diagnosis.area == area]
            print_table([{name: row[name] for name in list(row)[1:]} for row in rows], area, console)

    missing = [diagnosis.name for diagnosis in diagnoses if diagnosis.status == "missing"]
    if not json:
        print(_summary(missing))
    if "core" in missing:
        raise typer.Exit(1)


def _summary(missing: list[str]) -> str:
    """Say what comes of what is missing."""
    if "core" in missing:
        return "The core is not complete, and little will run: its remedy is above."
    if missing:
        return f"The core is complete. Optional parts are missing, with remedies above: {', '.join(missing)}"
    return "Everything is here."
