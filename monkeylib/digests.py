"""Digests of files, text, images, values and weights. Every hash of the library is computed here.

A digest is a SHA-256 in hexadecimal unless its docstring says otherwise. Many are stored beside results, so
what they are computed from must not change.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from monkeylib import resources
from monkeylib.image_sources import split_page

if TYPE_CHECKING:
    import sqlite3

    import torch

_DECIMALS = 6
_EDGE = 1 << 20  # bytes at either end of a large file that `quick_file_digest` reads
_SAMPLED = 1024  # values of each weight that `weights_digest` reads, at least


# Bytes, text and plain values


def bytes_digest(data: bytes) -> str:
    """Return the digest of bytes."""
    return hashlib.sha256(data).hexdigest()


def text_digest(text: str) -> str:
    """Return the digest of a text in UTF-8."""
    return bytes_digest(text.encode())


def json_digest(value: Any) -> str:
    """Return the digest of a JSON value, whatever the order of its keys."""
    return text_digest(json.dumps(value, sort_keys=True, default=str))


class RunningDigest:
    """Digest of many JSON values in their order, none of which is held in memory."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, value: Any) -> None:
        """Add the next value."""
        self._hash.update(json.dumps(value, sort_keys=True, default=str).encode() + b"\n")

    def digest(self) -> str:
        """Return the digest of the values so far."""
        return self._hash.hexdigest()


def text_number(text: str, size: int) -> int:
    """Return a number of `size` bytes that is the same for a text on every machine, spread uniformly."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], "big")


def short_digest(data: bytes, size: int) -> bytes:
    """Return a BLAKE2b digest of `size` bytes (up to 64), for tables of many keys."""
    return hashlib.blake2b(data, digest_size=size).digest()


class DigestSet:
    """Set of texts of which digests of 64 bits are held: a sorted array, eight bytes for each.

    Args:
        numbers: numbers of the texts, as `number` returns them.
    """

    def __init__(self, numbers: Iterable[int] | np.ndarray = ()) -> None:
        self._numbers = np.unique(np.asarray(numbers, dtype=np.uint64))

    @staticmethod
    def number(text: str) -> int:
        """Return the number that stands for a text."""
        return int.from_bytes(short_digest(text.encode("utf-8", "backslashreplace"), 8), "big")

    def __contains__(self, text: str) -> bool:
        number = np.uint64(self.number(text))
        row = int(np.searchsorted(self._numbers, number))
        return row < len(self._numbers) and self._numbers[row] == number


def image_digest(image: Image.Image) -> str:
    """Return the digest of an image's size and pixels."""
    return bytes_digest(f"{image.size}".encode() + image.tobytes())


# Files


def file_digest(path: Path) -> str:
    """Return the digest of a file's bytes.

    Raises:
        OSError: it is no regular file, such as a pipe, which would be waited for.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no regular file: expected a file to read")

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def quick_file_digest(path: Path) -> str:
    """Return the digest of a file's size and content; above two megabytes, of its first and last megabyte.

    For files of weights that are trained as a whole, which differ at their ends, too.
    """
    size = path.stat().st_size
    # The size first: files whose ends agree still differ in it.
    digest = hashlib.sha256(f"{size}\n".encode())

    with path.open("rb") as file:
        if size <= 2 * _EDGE:
            digest.update(file.read(size))
        else:
            digest.update(file.read(_EDGE))
            file.seek(-_EDGE, os.SEEK_END)
            digest.update(file.read())

    return digest.hexdigest()


def folder_digest(folder: Path) -> str:
    """Return the digest of the names and the contents of the files that lie directly in a folder.

    Large files are read once, and again when they change.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file())
    digests = FileDigests.in_cache().digests(files)
    return text_digest("".join(f"{path.name} {digests[path]}\n" for path in files))


# What stands for a file that does not exist.
MISSING = "missing"


def image_file_digest(path: Path) -> str:
    """Return the digest of an image's file; of a page of a document (`scan.pdf#3`), with its number.

    Raises:
        OSError: it is no regular file.
    """
    file, page = split_page(path)
    return _with_page(file_digest(file), page)


def _with_page(digest: str, page: int | None) -> str:
    return digest if page is None else text_digest(f"{digest}#{page}")


_THREADS = 16  # reading waits for the disk, and hashing releases Python's lock
_QUERY = 500  # paths of one query
_SETTLED_NS = 2_000_000_000  # age of a file in nanoseconds from which its times tell whether it has changed


class FileDigests:
    """Digests of the bytes of many files, remembered by path, size and times of change.

    A file is read again only when its size or one of its times (of its content, and of its entry in the file
    system, which no program can set back) has changed.

    Args:
        database: SQLite file in which the next process finds them; by default they are in memory alone. If it
            can't be used, for example on a file system without locks, every file is read.
    """

    def __init__(self, database: Path | None = None) -> None:
        self.database = database
        self._entries: dict[Path, tuple[_FileState, str]] = {}
        self._unsaved: set[Path] = set()

    @classmethod
    def in_cache(cls) -> "FileDigests":
        """Return the digests that all commands share, in the cache."""
        return cls(resources.cache() / "digests.sqlite")

    def digests(
        self, files: Sequence[Path], progress: Callable[[int, bool], None] | None = None
    ) -> dict[Path, str]:
        """Return the digest of each file, `MISSING` for one that doesn't exist or can't be read.

        The new ones are stored for the next process, also if this call is interrupted.

        Args:
            files: the files, which are read in threads.
            progress: called with a number of finished files and whether their digests were known.
        """
        paths = {file: Path(os.path.abspath(file)) for file in files}
        unique = list(dict.fromkeys(paths.values()))
        digests = {}

        with ThreadPoolExecutor(_THREADS) as threads:
            stated = zip(unique, threads.map(_file_state_or_none, unique), strict=True)
            states = {path: state for path, state in stated if state is not None}
            self._load(states)

            for path, state in states.items():
                entry = self._entries.get(path)
                if entry is not None and entry[0] == state:
                    digests[path] = entry[1]
            unknown = [path for path in states if path not in digests]
            if progress:
                progress(len(files) - len(unknown), True)

            try:
                for path, digest in zip(unknown, threads.map(_file_digest_or_missing, unknown), strict=True):
                    digests[path] = digest
                    if digest != MISSING:
                        self._remember(path, states[path], digest)
                    if progress:
                        progress(1, False)
            finally:
                self.save()

        return {file: digests.get(path, MISSING) for file, path in paths.items()}

    def image_digests(
        self, images: Sequence[Path], progress: Callable[[int, bool], None] | None = None
    ) -> dict[Path, str]:
        """Return the digests of images as `digests` does; a page (`scan.pdf#3`) has its number in its own."""
        pages = {image: split_page(image) for image in images}
        digests = self.digests([file for file, _ in pages.values()], progress)

        digests_of_images = {}
        for image, (file, page) in pages.items():
            digest = digests[file]
            digests_of_images[image] = digest if digest == MISSING else _with_page(digest, page)
        return digests_of_images

    def save(self) -> None:
        """Store the new digests in the database."""
        import sqlite3

        rows = [(_as_utf8(path), *self._entries[path][0], self._entries[path][1]) for path in self._unsaved]
        self._unsaved = set()
        if self.database is None or not rows:
            return

        with contextlib.suppress(sqlite3.Error, OSError), self._connect() as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO file_digests VALUES (?, ?, ?, ?, ?)", rows)

    def _remember(self, path: Path, state: "_FileState", digest: str) -> None:
        """Remember a digest, unless the file may have changed since its state was read."""
        # Two writes within a tick of the clock leave the same times, so a new file is read again next time.
        is_settled = time.time_ns() - max(state[1:]) > _SETTLED_NS
        if is_settled and _file_state_or_none(path) == state:
            self._entries[path] = (state, digest)
            self._unsaved.add(path)

    def _load(self, states: "Mapping[Path, _FileState]") -> None:
        """Load what the database holds of some files."""
        import sqlite3

        if self.database is None or not self.database.exists():
            return
        paths = {_as_utf8(path): path for path in states}
        names = list(paths)

        with contextlib.suppress(sqlite3.Error, OSError), self._connect() as connection:
            for start in range(0, len(names), _QUERY):
                part = names[start : start + _QUERY]
                marks = ",".join("?" * len(part))
                rows = connection.execute(f"SELECT * FROM file_digests WHERE path IN ({marks})", part)
                for name, size, modified, changed, digest in rows:
                    self._entries[paths[name]] = ((size, modified, changed), digest)

    @contextlib.contextmanager
    def _connect(self) -> "Iterator[sqlite3.Connection]":
        import sqlite3

        self.database.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self.database, timeout=10)) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS file_digests "
                "(path TEXT PRIMARY KEY, size INTEGER, modified INTEGER, changed INTEGER, digest TEXT)"
            )
            yield connection


def _as_utf8(path: Path) -> str:
    """Return a path as SQLite takes it: bytes of a name that are not UTF-8 are escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


# Size in bytes, and the times of the last change of a file's content and of its entry, in nanoseconds.
_FileState = tuple[int, int, int]


def _file_state(path: Path) -> _FileState:
    """Return the state of a file.

    Raises:
        OSError: it does not exist, or cannot be read.
    """
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _file_state_or_none(path: Path) -> _FileState | None:
    try:
        return _file_state(path)
    except (OSError, ValueError):  # ValueError: a name with a null byte
        return None


def _file_digest_or_missing(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:
        return MISSING


# Weights


def weights_digest(weights: Mapping[str, "torch.Tensor"], settings: Iterable[object] = ()) -> str:
    """Return the digest of named weights and of settings; of each weight, a regular sample of its values.

    Args:
        weights: a state dict. Of each tensor at most 2,047 values are read.
        settings: what else distinguishes the model, compared by its `repr`.
    """
    digest = hashlib.sha256(repr(list(settings)).encode())

    for name, weight in weights.items():
        # Every step-th value, spread over the weight.
        step = max(1, weight.numel() // _SAMPLED)
        digest.update(name.encode())
        digest.update(weight.flatten()[::step].float().cpu().numpy().tobytes())

    return digest.hexdigest()


def tensor_checksum(tensors: Sequence["torch.Tensor"]) -> bytes:
    """Return a checksum that changes with any value of tensors, and with the order of rows and of columns.

    Unlike `weights_digest` it reads all values, where they are: only sums of rows and of columns leave a GPU.
    Changes that cancel out in each row and in each column are not seen. No file should hold it, since it
    depends on how a machine sums.
    """
    import torch

    sums: dict[torch.device, list[torch.Tensor]] = {}
    for tensor in tensors:
        tensor = tensor.detach()
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor)
        if tensor.is_floating_point() and tensor.element_size() == 1:
            tensor = tensor.view(torch.uint8)

        of_device = sums.setdefault(tensor.device, [])
        if tensor.dim() < 2 or not tensor.numel():
            of_device.append(_as_floats(tensor.reshape(-1)))
        else:
            matrix = tensor.reshape(-1, tensor.shape[-1])
            # Where half precision would round, sums have single precision.
            exact = torch.int64
            if matrix.is_floating_point():
                exact = torch.promote_types(matrix.dtype, torch.float32)
            of_device += [_as_floats(matrix.sum(dim, dtype=exact)) for dim in (0, 1)]

    # A digest of the sums: in a sum of all, those that are infinite would hide the others.
    digest = hashlib.blake2b(digest_size=16)
    for of_device in sums.values():
        digest.update(torch.cat(of_device).cpu().numpy())
    return digest.digest()


def _as_floats(tensor: "torch.Tensor") -> "torch.Tensor":
    """Return numbers in single precision or better; whole ones by their remainder, which stays exact."""
    if tensor.is_floating_point():
        return tensor.float() if tensor.element_size() < 4 else tensor
    return tensor.long().remainder(16_777_213).float()


# Data of a figure or a run


def data_digest(data: Any) -> str:
    """Return the digest of the data that a figure was drawn from, or that a run read.

    Paths count with the bytes of their files; tables (anything with `to_csv`), arrays, tensors, images and
    nested lists and dictionaries with their values. Floats are rounded to six decimals first, so that the
    last bits of another processor don't count.

    Raises:
        ValueError: a value of another type.
    """
    digest = hashlib.sha256()

    for part in _parts(data):
        # The length keeps ["ab", "c"] and ["a", "bc"] apart.
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)

    return digest.hexdigest()


def _parts(data: Any) -> Iterable[bytes]:
    """Yield the bytes of each part of a value."""
    if isinstance(data, Path):
        yield file_digest(data).encode()

    elif hasattr(data, "detach"):  # a tensor; torch itself isn't imported here
        yield from _parts(data.detach().cpu().numpy())

    elif isinstance(data, np.ndarray | np.generic | Image.Image):
        array = np.asarray(data)
        # Type and shape count too: the same bytes can be other values.
        if np.issubdtype(array.dtype, np.floating):
            array = np.round(array.astype(np.float64), _DECIMALS) + 0.0  # + 0.0 turns -0.0 into 0.0
        yield f"{array.dtype.str}{array.shape}".encode()
        yield np.ascontiguousarray(array).tobytes()

    elif isinstance(data, float):
        yield repr(round(data, _DECIMALS) + 0.0).encode()

    elif data is None or isinstance(data, str | bytes | int):
        yield repr(data).encode()

    elif isinstance(data, Mapping):
        yield b"mapping"
        for key in sorted(data, key=str):
            yield from _parts(key)
            yield from _parts(data[key])

    elif isinstance(data, list | tuple):
        yield f"sequence of {len(data)}".encode()
        for item in data:
            yield from _parts(item)

    elif hasattr(data, "to_csv"):  # a pandas table
        yield data.to_csv(float_format=f"%.{_DECIMALS}f").encode()

    else:
        raise ValueError(
            "The data of a figure must be paths, tables, arrays, images or plain values: "
            f"got {type(data).__name__}."
        )
