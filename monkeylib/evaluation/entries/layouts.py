"""The readers of official files that an entry names: one for each layout."""

from collections.abc import Callable, Iterator
from pathlib import Path

from monkeylib.data.public import layouts
from monkeylib.data.public.rows import Asked

Layout = Callable[..., Iterator[Asked]]


def _captions(folder: Path, file: str) -> Iterator[Asked]:
    """TextCaps with all captions of an image in one row, in the order of the images."""
    found: dict[str, list[str]] = {}
    for row in layouts.textcaps(folder, file):
        found.setdefault(row.image, []).extend(row.answers)
    for image, captions in found.items():
        yield Asked(Path(image).stem, image, "", tuple(captions))


def _chartqa(folder: Path, *files: str) -> Iterator[Asked]:
    return layouts.chartqa(folder, files)


def _ai2d(folder: Path, *files: str) -> Iterator[Asked]:
    return layouts.ai2d(folder, test=True)


def _mme(folder: Path, *files: str) -> Iterator[Asked]:
    return layouts.mme(folder)


LAYOUTS: dict[str, Layout] = {
    "ai2d": _ai2d,
    "chartqa": _chartqa,
    "coco_questions": layouts.coco_questions,
    "docvqa": layouts.docvqa,
    "due": layouts.due,
    "estvqa": layouts.estvqa,
    "gqa": layouts.gqa,
    "karpathy": layouts.karpathy,
    "mme": _mme,
    "scienceqa": layouts.scienceqa,
    "stvqa": layouts.stvqa,
    "textcaps": _captions,
    "textvqa": layouts.textvqa,
    "vizwiz": layouts.vizwiz,
}
