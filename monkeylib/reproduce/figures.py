"""Figures as files that know what they were drawn from.

    fig = draw_models(scores, names)
    data = tables.table_path("evaluation", profile)
    figures.save(fig, "evaluation", data=data, profile=profile, source="06_evaluation")

`save` writes the figure as PNG and PDF and notes in the manifest beside them the profile, the notebook or
function that drew it, and the digest of its data.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from monkeylib import resources
from monkeylib.digests import data_digest
from monkeylib.plots.style import STYLE

MANIFEST = "manifest.json"

# No date and no version goes into a file: the same figure gives the same bytes.
_METADATA = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def save(fig: Figure, name: str, *, data: Any, profile: str, source: str) -> None:
    """Write a figure as PNG and PDF and note it in the manifest.

    Args:
        fig: the figure.
        name: file name without ending, as in "tiles".
        data: what it was drawn from: the path (or paths) of result files, or values in memory (arrays,
            tables, images, plain values).
        profile: figures of `nano` go to figures/, others to data/runs/<profile>/figures/.
        source: the notebook or function that draws it, as in "08_visualization".

    Raises:
        FileExistsError: a file of this name is there, but no figure of the manifest.
        FileNotFoundError: a path in `data` that doesn't exist.
        ValueError: `data` of a type that has no digest, or a damaged manifest.
    """
    # First, since it fails if the data is missing: then nothing is written.
    files = _paths(data)
    entry = {
        "profile": profile,
        "source": source,
        "data": [resources.recorded_path(file) for file in files],
        "sha256": data_digest(files or data),
        "files": [f"{name}.{ending}" for ending in _METADATA],
    }

    folder = resources.figures(profile)
    entries = manifest(profile)
    is_new = name not in entries
    if is_new:
        _require_no_files(folder, entry["files"])
    # Other figures of the manifest stay; sorted, so that it differs only where a figure does.
    entries = dict(sorted({**entries, name: entry}.items()))

    # Noted before a new figure is there: one that is killed in between leaves no file of unknown origin.
    if is_new:
        _write_manifest(folder, entries)
    for ending, metadata in _METADATA.items():
        with resources.atomic_write(folder / f"{name}.{ending}") as temporary:
            fig.savefig(
                temporary, format=ending, metadata=metadata, dpi=STYLE["savefig.dpi"], bbox_inches="tight"
            )
    if not is_new:
        _write_manifest(folder, entries)


def _require_no_files(folder: Path, names: list[str]) -> None:
    """Check that no file has one of the names.

    Raises:
        FileExistsError: one does.
    """
    for name in names:
        if os.path.lexists(folder / name):
            raise FileExistsError(
                f"{resources.display_path(folder)}/{name} is in the way and is no figure of monkeylib: move "
                "it away"
            )


def _write_manifest(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    with resources.atomic_write(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def manifest(profile: str) -> dict[str, dict]:
    """Return the figures of a profile: name -> profile, source, data (paths), sha256 of the data, files.

    Raises:
        ValueError: the manifest is damaged.
    """
    path = resources.figures(profile) / MANIFEST
    if not path.exists():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(entry["files"], list) for entry in entries.values()):
            return entries
    except (ValueError, AttributeError, KeyError, TypeError):
        pass
    raise ValueError(
        f"{resources.display_path(path)} is damaged or no list of figures: move it away, with the figures "
        "beside it"
    )


def _paths(data: Any) -> list[Path]:
    """Return the files that a figure was drawn from; none if it was drawn from values in memory."""
    items = list(data) if isinstance(data, list | tuple) else [data]
    return items if all(isinstance(item, Path) for item in items) else []
