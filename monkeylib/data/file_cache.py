"""Files of the cache that are made of a data file: an index of its rows, or a copy that can be mapped."""

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from monkeylib import resources
from monkeylib.digests import text_digest


def cached_file(source: Path, folder: str, suffix: str, write: Callable[[Path], None]) -> Path:
    """Return the file of the cache that is made of a state of another one, and make it if it is not there.

    The first process of a machine makes it; the others wait for it.

    Args:
        source: the data file. One that was written again has another size or time of change, and gets
            another file.
        folder: folder within the cache.
        suffix: ending of the file in the cache.
        write: writes the content to a path, whose file then gets its name.

    Raises:
        FileNotFoundError: there is no such data file.
        OSError: the cache cannot be written.
    """
    stat = source.stat()
    state = text_digest(f"{source.resolve()} {stat.st_size} {stat.st_mtime_ns}")[:16]
    cached = resources.cache() / folder / f"{source.stem}-{state}{suffix}"
    if cached.is_file():
        return cached

    cached.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{cached}.lock"):
        if not cached.is_file():
            with resources.atomic_write(cached) as temporary:
                write(temporary)
    return cached
