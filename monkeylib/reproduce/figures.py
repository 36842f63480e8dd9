"""Figures as files that know what they were drawn from.

    fig = draw_variants(scores, names)
    data = tables.table_path("ablation", profile)
    figures.save(fig, "ablation", data=data, profile=profile, source="07_ablations")

`save` writes the figure as PNG and PDF and notes in the manifest beside them the profile, the notebook or
function that drew it, and the digest of its data.
"""

import json
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
        FileNotFoundError: a path in `data` that doesn't exist.
        ValueError: `data` of a type that has no digest.
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
    for ending, metadata in _METADATA.items():
        with resources.atomic_write(folder / f"{name}.{ending}") as temporary:
            fig.savefig(
                temporary, format=ending, metadata=metadata, dpi=STYLE["savefig.dpi"], bbox_inches="tight"
            )

    # Other figures of the manifest stay; sorted, so that it differs only where a figure does.
    entries = dict(sorted({**manifest(profile), name: entry}.items()))
    with resources.atomic_write(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def manifest(profile: str) -> dict[str, dict]:
    """Return the figures of a profile: name -> profile, source, data (paths), sha256 of the data, files."""
    path = resources.figures(profile) / MANIFEST
    if not path.exists():
        return {}
    return json.loads(path.read_text(encoding="utf-8"))


def _paths(data: Any) -> list[Path]:
    """Return the files that a figure was drawn from; none if it was drawn from values in memory."""
    items = list(data) if isinstance(data, list | tuple) else [data]
    return items if all(isinstance(item, Path) for item in items) else []
