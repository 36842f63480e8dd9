"""Files of the cache that are made of a data file: an index of its rows, or a copy that can be mapped."""

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from monkeylib import resources
from monkeylib.digests import text_digest


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
        OSError: the cache cannot be written.
    """
    state = text_digest(" ".join(map(str, (source.resolve(), *file_state(source)))))[:16]
    cached = resources.cache() / folder / f"{source.stem}-{state}{suffix}"
    if cached.is_file():
        return cached

    cached.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{cached}.lock"):
        if not cached.is_file():
            with resources.atomic_write(cached) as temporary:
                write(temporary)
    return cached
