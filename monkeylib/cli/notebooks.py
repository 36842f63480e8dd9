"""`monkeylib notebooks`: the series of notebooks as files of one's own."""

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from monkeylib import resources


def notebooks(
    folder: Annotated[Path, typer.Argument(help="Folder, new or with files of yours.")] = Path("notebooks"),
) -> None:
    """Write the series of notebooks into a folder, to read, to run and to change.

    Files that are there already stay as they are.
    """
    folder = resources.to_path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: name a folder for the notebooks")

    written, existing = [], []
    for source in sorted(resources.notebooks().glob("*.ipynb")):
        target = folder / source.name
        if os.path.lexists(target):
            existing.append(target.name)
            continue
        with resources.atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)
        written.append(target.name)

    shown = resources.display_path(folder)
    for name in written:
        print(f"{shown}/{name}")
    if existing:
        print(f"left as they are, since they were there before: {', '.join(existing)}")
    place = "below the folder that they lie in"
    if not resources.is_installed():
        runs = resources.outputs() / "data" / "runs"
        place = f"to {resources.display_path(resources.lab())} and {resources.display_path(runs)}"
    print(f"Open them with `{resources.program('jupyter')} lab {shown}`; what they write goes {place}.")
