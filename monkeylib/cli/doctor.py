"""`monkeylib doctor`: what will run on this machine, and how to mend what will not."""

from typing import TYPE_CHECKING, Annotated

import typer

from monkeylib import resources
from monkeylib.cli import options

if TYPE_CHECKING:
    from monkeylib.doctor import Diagnosis

# Extras and assets are for some commands only; folders and shipped models are for nearly all.
OPTIONAL_AREAS = ("packages", "assets")


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each diagnosis.")] = False,
) -> None:
    """Say what will run on this machine, and how to mend what will not.

    Nothing is downloaded or written. The exit code is 1 where the core itself is not complete.
    """
    from monkeylib.doctor import diagnose

    diagnoses = diagnose()
    if json:
        for diagnosis in diagnoses:
            options.print_json(diagnosis.to_dict())
    else:
        _print_areas(diagnoses)

    missing = [diagnosis for diagnosis in diagnoses if diagnosis.status == "missing"]
    if not json:
        print(_summary(missing))
    if any(diagnosis.name == "core" for diagnosis in missing):
        raise typer.Exit(1)


def _print_areas(diagnoses: "list[Diagnosis]") -> None:
    """Print a line for each diagnosis, and its remedy below it: the details are too long for a table."""
    name_width = max(len(diagnosis.name) for diagnosis in diagnoses)
    for area in dict.fromkeys(diagnosis.area for diagnosis in diagnoses):
        print(area)
        for diagnosis in diagnoses:
            if diagnosis.area != area:
                continue
            print(f"  {diagnosis.status:<7}  {diagnosis.name:<{name_width}}  {diagnosis.detail}")
            if diagnosis.remedy:
                print(f"{' ' * (name_width + 13)}-> {resources.as_typed(diagnosis.remedy)}")
        print()


def _summary(missing: "list[Diagnosis]") -> str:
    """Say what comes of what is missing."""
    if not missing:
        return "Everything is here."
    if any(diagnosis.name == "core" for diagnosis in missing):
        return "The core is not complete, so most commands fail: see its remedy above."

    optional = [diagnosis.name for diagnosis in missing if diagnosis.area in OPTIONAL_AREAS]
    needed = [diagnosis.name for diagnosis in missing if diagnosis.area not in OPTIONAL_AREAS]
    sentences = ["The core is complete."]
    if needed:
        sentences.append(
            f"Most commands need what is missing here, with remedies above: {', '.join(needed)}."
        )
    if optional:
        sentences.append(f"Optional parts are missing, with remedies above: {', '.join(optional)}.")
    return " ".join(sentences)
