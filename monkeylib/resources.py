"""Where things lie on disk: what the repository ships, and what a run writes.

Inputs (notebooks, shipped models, sample images) lie in the repository. Everything that a run writes lies
under `outputs()`, which is the repository too unless the environment variable MONKEYLIB_OUTPUTS names another
folder; tests set it, so that they leave the checkout as it was.
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
COMMITTED_PROFILE = "nano"


def outputs() -> Path:
    """The folder under which runs, results and figures are written."""
    return Path(os.environ.get("MONKEYLIB_OUTPUTS", REPOSITORY)).resolve()


def notebooks() -> Path:
    """The committed notebooks."""
    return REPOSITORY / "notebooks"


def models() -> Path:
    """The models that the repository ships, one folder each."""
    return REPOSITORY / "data" / "models"


def samples() -> Path:
    """The small images that the repository ships."""
    return REPOSITORY / "data" / "samples"


def cache() -> Path:
    """Downloads and other files that can be made again (not committed)."""
    return outputs() / "data" / "cache"


def benchmarks() -> Path:
    """Downloads of benchmarks, one folder each (not committed): MONKEYLIB_DATA, or a folder of the cache."""
    return Path(os.environ.get("MONKEYLIB_DATA", cache() / "benchmarks")).resolve()


def runs(profile: str) -> Path:
    """Checkpoints, predictions and executed notebooks of a profile (not committed)."""
    return outputs() / "data" / "runs" / profile


def results(profile: str) -> Path:
    """Result tables of a profile, as CSV."""
    return outputs() / "data" / "results" / profile


def figures(profile: str) -> Path:
    """Figures of a profile: those of `nano` are committed in figures/, the others stay with their run."""
    return outputs() / "figures" if profile == COMMITTED_PROFILE else runs(profile) / "figures"


def shown(path: Path | str) -> str:
    """A path as a reader should see it: relative to the outputs or the repository where it lies in them."""
    path = Path(path).resolve()
    for folder in (outputs(), REPOSITORY):
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return str(path)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the place of `path` if the block ends well, and vanishes if not."""
    path.parent.mkdir(parents=True, exist_ok=True)  # processes of several machines may share a folder
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` if the block ends well, and vanishes if not.

    Raises:
        FileExistsError: `path` holds something already.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise FileExistsError(f"{shown(path)} exists already: name a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.mkdir()
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
