"""Results of a model on disk: a few large files that only grow, each with an index.

A file has a line for each result: its key (a SHA-256 in hexadecimal), the checksum of its JSON, and the JSON.
A process writes into one file only, which it locks; it goes on with one that an earlier process has left, as
long as that is small enough. So there are about as many files as processes write at the same time. What a
killed process has left of its last line is dropped, and so is a line whose checksum doesn't fit.

The index of a file says where each result lies. It is sorted and mapped into memory, so that a store of any
size takes a few bytes of memory for each. It holds nothing of its own: one that is missing, damaged or
behind its file is made anew from the lines.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import uuid
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from monkeylib import resources

RESULTS, INDEX = ".results", ".index"  # endings of a file and of its index
LARGEST_FILE = 2**30  # bytes, from which on another file is begun

_KEY = 64  # characters
_HEAD = _KEY + len(" 01234567 ")  # of a line, before the JSON
_UNINDEXED = 2**14  # results after which the index is written anew: 4 MB of memory until then
_MAGIC = 0x6D6F6E6B65790001  # first number of an index, which names its layout


class ResultStore:
    """The results of one model by their keys, shared by the processes that run it.

    A process finds what it has stored itself and what processes that have ended have stored. Of one that is
    still at work, it finds what was there when it looked first.

    Args:
        folder: folder of the files.
        result_type: type of a result, which pydantic converts to JSON and back.
        largest_file: bytes from which on another file is begun.
    """

    def __init__(self, folder: Path, result_type: Any, largest_file: int = LARGEST_FILE) -> None:
        self.folder = folder
        self.result_type = result_type
        self.largest_file = largest_file

        self._files: dict[str, _ResultFile] = {}
        self._own: _ResultFile | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files out: a copy in another process opens its own."""
        return {"folder": self.folder, "result_type": self.result_type, "largest_file": self.largest_file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def get(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the results that are stored, by key. One that is damaged is none."""
        adapter = _type_adapter(self.result_type)
        results = {}
        with self._lock:
            self._find_files()
            for key in keys:
                for file in self._files.values():
                    content = file.read(key)
                    if content is None:
                        continue
                    with suppress(ValueError):  # of an earlier type
                        results[key] = adapter.validate_json(content)
                        break
        return results

    def put(self, results: Mapping[str, Any]) -> None:
        """Store results, in place of earlier ones of the same keys."""
        if not results:
            return
        adapter = _type_adapter(self.result_type)
        contents = {key: adapter.dump_json(result) for key, result in results.items()}

        with self._lock:
            if self._own is not None and self._own.size >= self.largest_file:
                self._own.close()
                self._own = None
            if self._own is None:
                self._own = self._open_own()
            self._own.append(contents)

    def close(self) -> None:
        """Write the index, and release the files. They are opened again on demand."""
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files, self._own = {}, None

    def _find_files(self) -> None:
        """Open files that have appeared, and read on in those of processes that have ended."""
        with suppress(FileNotFoundError):
            for name in sorted(os.listdir(self.folder)):
                if not name.endswith(RESULTS) or name.startswith("."):
                    continue
                if name not in self._files:
                    self._files[name] = _ResultFile(self.folder / name)
                elif self._files[name] is not self._own:
                    self._files[name].read_on()

    def _open_own(self) -> _ResultFile:
        """Return a locked file to write to: one that isn't full and no process writes to, or a new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._find_files()
        for file in self._files.values():
            if file.size < self.largest_file and file.lock():
                return file

        # Few results fill a file: those of one model, over many runs.
        file = _ResultFile(self.folder / f"{uuid.uuid4().hex}{RESULTS}")
        file.lock()
        self._files[file.path.name] = file
        return file


@lru_cache
def _type_adapter(result_type: Any) -> TypeAdapter:
    return TypeAdapter(result_type)


class _ResultFile:
    """One file and its index.

    Attributes:
        path: the file.
        size: bytes of its complete lines, as far as they have been read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._descriptor = -1

        # The first 64 bits of each key, where its JSON begins, and its length: [3, results]. The results
        # behind those of the index by the same bits: a second key of the same bits is a result that is lost.
        self._index = np.zeros((3, 0), dtype=np.uint64)
        self._unindexed: dict[int, tuple[int, int]] = {}
        self._is_own = False
        self._is_read = False

        self._is_writable = True
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            # A file of another user, or a file system that is mounted to be read.
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not path.is_file():
                raise
            self._descriptor = os.open(path, os.O_RDONLY)
            self._is_writable = False
        self._load_index()
        self.read_on()

    def lock(self) -> bool:
        """Make this process the one that writes here; False if another one does, or it may only read.

        What a killed process has left of its last line is cut off.
        """
        if not self._is_writable:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks: an old file may be another's, a new one isn't
            if os.fstat(self._descriptor).st_size:
                return False

        self._is_own = True
        self._read_lines()
        os.ftruncate(self._descriptor, self.size)
        return True

    def read_on(self) -> None:
        """Read the lines that have been appended, unless their writer is still at work."""
        if self._is_own or os.fstat(self._descriptor).st_size == self.size:
            return

        is_first_time, self._is_read = not self._is_read, True
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if not is_first_time:
                return
        except OSError:  # a file system without locks
            pass

        self._read_lines()
        with suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def read(self, key: str) -> bytes | None:
        """Return the JSON of a result; None if it isn't here, or damaged."""
        bits = int(key[:16], 16)
        place = self._unindexed.get(bits)
        if place is None:
            keys = self._index[0]
            row = int(np.searchsorted(keys, np.uint64(bits)))
            if row == len(keys) or int(keys[row]) != bits:
                return None
            place = int(self._index[1, row]), int(self._index[2, row])

        start, length = place
        line = os.pread(self._descriptor, length, start)
        content = line[_HEAD:-1]
        return content if line == _line(key, content) else None

    def append(self, contents: Mapping[str, bytes]) -> None:
        """Append results."""
        start = self.size
        places = {}
        lines = []
        for key, content in contents.items():
            line = _line(key, content)
            places[int(key[:16], 16)] = (start, len(line))
            start += len(line)
            lines.append(line)

        rest = memoryview(b"".join(lines))
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:  # the disk is full
            with suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
            raise

        self.size = start
        self._unindexed.update(places)
        if len(self._unindexed) >= _UNINDEXED:
            self._write_index()

    def close(self) -> None:
        """Write the index if this process writes here, and close the file, which releases its lock."""
        if self._is_own and self._unindexed:
            with suppress(OSError):  # it is made anew
                self._write_index()
        self._close_descriptor()

    def __del__(self) -> None:
        self._close_descriptor()

    def _close_descriptor(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _read_lines(self) -> None:
        """Note the complete lines behind those that have been read."""
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(self.size)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # torn, or on its way

                with suppress(ValueError):  # not a key
                    self._unindexed[int(line[:16], 16)] = (self.size, len(line))
                self.size += len(line)

    def _load_index(self) -> None:
        """Map the index, if there is one that fits the file."""
        try:
            numbers = np.memmap(self.path.with_suffix(INDEX), dtype=np.uint64, mode="r")
        except (OSError, ValueError):  # missing, or empty
            return

        # Layout, bytes of the file that it covers, and the three rows.
        is_index = len(numbers) >= 2 and len(numbers) % 3 == 2 and int(numbers[0]) == _MAGIC
        if is_index and int(numbers[1]) <= os.fstat(self._descriptor).st_size:
            self._index = numbers[2:].reshape(3, -1)
            self.size = int(numbers[1])

    def _write_index(self) -> None:
        """Merge all results into a new index."""
        bits = np.fromiter(self._unindexed, np.uint64, len(self._unindexed))
        places = np.array(list(self._unindexed.values()), dtype=np.uint64).reshape(-1, 2)
        new = np.concatenate([bits[None], places.T])

        # Of two results with one key, the one in front: the newer one.
        merged = np.concatenate([new, self._index], axis=1)
        _, columns = np.unique(merged[0], return_index=True)
        header = np.array([_MAGIC, self.size], dtype=np.uint64)
        path = self.path.with_suffix(INDEX)
        with resources.atomic_write(path) as temporary, temporary.open("wb") as file:
            header.tofile(file)
            merged[:, columns].tofile(file)

        self._unindexed = {}
        self._load_index()


def _line(key: str, content: bytes) -> bytes:
    """Return the line of a result."""
    return f"{key} {zlib.crc32(content):08x} ".encode() + content + b"\n"
