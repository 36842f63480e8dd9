"""Files of the cache that are made of a data file: an index of its rows, or a copy that can be mapped.

Where the cache can't be written, they lie among the system's temporary files until the process ends.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from monkeylib import resources
from monkeylib.digests import text_digest
from monkeylib.progress import say


def file_state(path: Path) -> tuple[int, int, int, int]:
    """Return size, inode and times of change of a file's content and of its entry: another one has others.

    A tool may set the time of the content, and a file that takes the place of another one may have its size;
    the time of the entry is the system's. A copy of a file is another one.

    Raises:
        OSError: there is no such file.
    """
    status = path.stat()
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def cached_file(source: Path, folder: str, suffix: str, write: Callable[[Path], None]) -> Path:
    """Return the file of the cache that is made of a state of another one, and make it if it is not there.

    The first process of a machine makes it; the others wait for it.

    Args:
        source: the data file. One that was written again has another `file_state`, and gets another file.
        folder: folder within the cache.
        suffix: ending of the file in the cache.
        write: writes the content to a path, whose file then gets its name.

    Raises:
        FileNotFoundError: there is no such data file.
        OSError: the disk is full.
    """
    state = text_digest(" ".join(map(str, (source.resolve(), *file_state(source)))))[:16]
    name = f"{source.stem}-{state}{suffix}"
    cached = resources.cache() / folder / name
    if not cached.is_file():
        cached = writable_folder(folder) / name
        with FileLock(f"{cached}.lock"):
            if not cached.is_file():
                _write(cached, write)
    return cached


def _write(cached: Path, write: Callable[[Path], None]) -> None:
    """Write a file of the cache; a full disk is named, other errors may be of the source."""
    try:
        with resources.atomic_write(cached) as temporary:
            write(temporary)
    except OSError as error:
        if error.errno not in resources.FULL_DISK:
            raise
        with resources.explain_unwritable(cached.parent):
            raise


def writable_folder(name: str) -> Path:
    """Return a folder of the cache; one that the process removes at its end if the cache can't be written."""
    folder = resources.cache() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        folder = _temporary_cache(folder.parent, error.strerror or str(error)) / name
        folder.mkdir(exist_ok=True)
    return folder


@lru_cache
def _temporary_cache(cache: Path, reason: str) -> Path:
    """Return a folder in place of a cache that can't be written, and say so once."""
    folder = Path(tempfile.mkdtemp(prefix="monkeylib-"))
    owner = os.getpid()

    def remove() -> None:
        # Not at the end of a process that was forked.
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    say(
        f"the cache {resources.display_path(cache)} can't be written to ({reason}): what belongs there is "
        f"made anew in {tempfile.gettempdir()} each time; MONKEYLIB_OUTPUTS names another folder"
    )
    return folder
