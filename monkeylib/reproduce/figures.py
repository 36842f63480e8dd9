"""Figures as files that know what they were drawn from.

    fig = draw_models(scores, names)
    data = tables.table_path("evaluation", profile)
    figures.save(fig, "evaluation", data=data, profile=profile, source="06_evaluation")

`save` writes the figure as PNG and PDF. It notes in the manifest beside them the profile, the notebook or
module that drew it, its number, caption and text for readers who do not see it (`figure_texts.yaml`), its
size, digests of its data, of the code of its drawing and of the files, and labels that overlap.
"""

import io
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from monkeylib import resources
from monkeylib.digests import data_digest, file_digest
from monkeylib.images import open_image
from monkeylib.plots.labels import overlapping_labels
from monkeylib.plots.style import STYLE
from monkeylib.reproduce.code_digests import code_digests

MANIFEST = "manifest.json"
TEXTS = Path(__file__).with_name("figure_texts.yaml")

_PLOTS = "monkeylib.plots"
_LARGEST = 800_000  # bytes of a PNG in full colour; photographs above it get a palette of 256 colours

# No date and no version goes into a file: the same figure gives the same bytes.
_METADATA = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@dataclass(frozen=True)
class FigureText:
    """Number and caption of a figure, and what a reader is told who does not see it.

    As the last value of a notebook's cell, it is shown as the figure's caption.
    """

    number: str
    caption: str
    alt: str

    def _repr_markdown_(self) -> str:
        return f"**Figure {self.number}.** {self.caption}"


@cache
def figure_texts() -> dict[str, FigureText]:
    """Return the texts of the figures of the series, by their names, in the order of their numbers."""
    texts = {}
    for source, figures in yaml.safe_load(TEXTS.read_text(encoding="utf-8")).items():
        # 06_evaluation has figures 6.1 and 6.2; a module, whose name begins with no number, has figure 1.
        notebook = source.partition("_")[0]
        prefix = "" if "." in source else f"{notebook.lstrip('0') or '0'}."
        for number, (name, text) in enumerate(figures.items(), 1):
            texts[name] = FigureText(f"{prefix}{number}", text["caption"], text["alt"])
    return texts


def save(fig: Figure, name: str, *, data: Any, profile: str, source: str) -> FigureText | None:
    """Write a figure as PNG and PDF and note it in the manifest.

    Args:
        fig: the figure.
        name: file name without ending, as in "tiles".
        data: what it was drawn from: the path (or paths) of result files, or values in memory (arrays,
            tables, images, plain values).
        profile: figures go to `resources.figures(profile)`.
        source: the notebook or module that draws it, as in "08_visualization".

    Returns:
        Its number and texts; None for a name that `figure_texts.yaml` does not have.

    Raises:
        FileExistsError: a file of this name is there, but no figure of the manifest.
        FileNotFoundError: a path in `data` that doesn't exist.
        ValueError: `data` of a type that has no digest, or a damaged manifest.
    """
    # First, since it fails if the data is missing: then nothing is written.
    files = _paths(data)
    text = figure_texts().get(name)
    entry = {
        "number": text.number if text else "",
        "caption": text.caption if text else "",
        "alt": text.alt if text else "",
        "profile": profile,
        "source": source,
        "data": [resources.recorded_path(file) for file in files],
        "sha256": data_digest(files or data),
        "code_sha256": _code_digest(),
        "overlaps": overlapping_labels(fig),
        "dpi": STYLE["savefig.dpi"],
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
        write_manifest(folder, entries)
    drawings = {ending: _drawing(fig, ending) for ending in _METADATA}
    for ending, drawing in drawings.items():
        with resources.atomic_write(folder / f"{name}.{ending}") as temporary:
            temporary.write_bytes(drawing)

    # With the digests of the files, which are known only now.
    entry["size"] = list(open_image(drawings["png"]).size)
    entry["files_sha256"] = [file_digest(folder / file) for file in entry["files"]]
    write_manifest(folder, entries)
    return text


def _drawing(fig: Figure, ending: str) -> bytes:
    """Return the bytes of a figure's PNG or PDF; a large PNG has 256 colours."""
    buffer = io.BytesIO()
    dpi = STYLE["savefig.dpi"]
    fig.savefig(buffer, format=ending, metadata=_METADATA[ending], dpi=dpi, bbox_inches="tight")
    if ending != "png" or buffer.tell() <= _LARGEST:
        return buffer.getvalue()

    image = open_image(buffer.getvalue()).quantize(256)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", dpi=(dpi, dpi), optimize=True)
    return buffer.getvalue()


def _code_digest() -> str:
    """Return the digest of the modules of drawings that are imported, and of what these import of them."""
    modules = sorted(name for name in sys.modules if name.startswith(f"{_PLOTS}."))
    imports = "\n".join(f"import {module}" for module in modules)
    folder = _PLOTS.replace(".", "/")
    return data_digest(
        {file: digest for file, digest in code_digests(imports).items() if file.startswith(f"{folder}/")}
    )


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


def write_manifest(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the list of a folder's figures, and return its path."""
    with resources.atomic_write(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    return folder / MANIFEST


def manifest(profile: str) -> dict[str, dict]:
    """Return the figures of a profile: name -> profile, source, data (paths), sha256 of the data, files.

    Raises:
        ValueError: the manifest is damaged.
    """
    return read_manifest(resources.figures(profile))


def read_manifest(folder: Path) -> dict[str, dict]:
    """Return the figures of a folder, as `manifest` does; none without a list of them."""
    path = folder / MANIFEST
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
