"""Digests of files, text, images, values and weights. Every hash of the library is computed here.

A digest is a SHA-256 in hexadecimal unless its docstring says otherwise. Many are stored beside results, so
what they are computed from must not change.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from monkeylib import resources

if TYPE_CHECKING:
    import torch

_DECIMALS = 6
_EDGE = 1 << 20  # bytes at either end of a large file that `quick_file_digest` reads
_SAMPLED = 1024  # values of each weight that `weights_digest` reads, at least
_SETTLED_NS = 2_000_000_000  # age of a file in nanoseconds from which its times tell whether it has changed


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


def text_number(text: str, size: int) -> int:
    """Return a number of `size` bytes that is the same for a text on every machine, spread uniformly."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], "big")


def short_digest(data: bytes, size: int) -> bytes:
    """Return a BLAKE2b digest of `size` bytes (up to 64), for tables of many keys."""
    return hashlib.blake2b(data, digest_size=size).digest()


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


class FileDigests:
    """Digests of the bytes of many files, remembered by path, size and times of the last change.

    A file is read again only if its size or one of its times has changed.

    Args:
        path: where `save` stores the digests for the next process; by default they are in memory alone. A
            file that cannot be read as such is ignored, and the digests are computed anew.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._entries: dict[str, list[Any]] = {}
        self._has_changed = False

        if path is not None and path.is_file():
            try:
                self._entries = dict(json.loads(path.read_bytes()))
            except (OSError, ValueError, TypeError):
                self._entries = {}

    def digest(self, file: Path) -> str:
        """Return the digest of a file's bytes.

        Raises:
            OSError: the file does not exist, or cannot be read.
        """
        key = os.path.abspath(file)
        status = os.stat(file)
        state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]

        entry = self._entries.get(key)
        if isinstance(entry, list) and entry[:-1] == state:
            return entry[-1]

        digest = file_digest(file)

        # Two writes within a tick of the clock leave the same times, so a new file is read again next time.
        is_settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED_NS
        if is_settled:
            self._entries[key] = [*state, digest]
            self._has_changed = True
        return digest

    def save(self) -> None:
        """Write the digests to `path`, if there are new ones."""
        if self.path is None or not self._has_changed:
            return

        with resources.atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(self._entries), encoding="utf-8")
        self._has_changed = False


def quick_file_digest(path: Path) -> str:
    """Return the digest of a file's size and content; above two megabytes, of its first and last megabyte.

    Hashing 15 GB takes a minute, and different weights also differ at their ends.
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
    """Return the digest of the names and the quick digests of the files that lie directly in a folder."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return text_digest("".join(f"{path.name} {quick_file_digest(path)}\n" for path in files))


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
