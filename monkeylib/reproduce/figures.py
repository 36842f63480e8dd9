"""Figures: one style, and files that know what they were drawn from.

    figures.use_style()
    fig, ax = plt.subplots()
    ...
    figures.save(fig, "grid", data=tables.table_path("grid", profile), profile=profile, source="07_ablations")

`save` writes the figure as PNG and PDF and notes in the manifest beside them the profile, the notebook or
function that drew it, and the digest of its data.
"""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from monkeylib import digests, resources
from monkeylib.plots.style import STYLE

MANIFEST = "manifest.json"
# Neither date nor version goes into a file: the same figure gives the same bytes.
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
        FileNotFoundError: a path in `data` that doesn't exist.
        ValueError: `data` of a type that has no digest.
    """
    files = _paths(data)
    entry = {
        "profile": profile,
        "source": source,
        "data": [resources.display_path(file) for file in files],
        "sha256": digests.data_digest(files or data),
        "files": [f"{name}.{ending}" for ending in _METADATA],
    }
    folder = resources.figures(profile)
    for ending, metadata in _METADATA.items():
        with resources.atomic_write(folder / f"{name}.{ending}") as temporary:
            fig.savefig(
                temporary, format=ending, metadata=metadata, dpi=STYLE["savefig.dpi"], bbox_inches="tight"
            )
    with resources.atomic_write(folder / MANIFEST) as temporary:
        everything = dict(sorted((manifest(profile) | {name: entry}).items()))
        temporary.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")


def manifest(profile: str) -> dict[str, dict]:
    """The figures of a profile: name -> profile, source, data (paths of files), sha256 of the data, files."""
    path = resources.figures(profile) / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _paths(data: Any) -> list[Path]:
    """The files that a figure was drawn from; none if it was drawn from values in memory."""
    items = data if isinstance(data, list | tuple) else [data]
    return list(items) if all(isinstance(item, Path) for item in items) else []
