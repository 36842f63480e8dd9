"""Names of a run's files in its manifest, which may be patterns where a library chooses the name.

A name is relative to the run's folder, with `/`. In a part of it, `*` stands for any characters, and `<hex>`
for the 16 to 64 hexadecimal digits of a digest or of a random name. The first part is fixed unless it is the
only one. A name that ends in `/` is a folder that the run has created.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

MANIFEST, LOCK, HOLDER = "run.json", ".monkeylib.lock", ".monkeylib.lock.json"

_WILDCARDS = {"*": "[^/]*", "<hex>": "[0-9a-f]{16,64}"}


def matches(name: str, pattern: str) -> bool:
    """Return whether a name is one of the manifest, which may be a pattern."""
    return name == pattern or (_is_pattern(pattern) and _expression(pattern).fullmatch(name) is not None)


def _is_pattern(name: str) -> bool:
    return any(wildcard in name for wildcard in _WILDCARDS)


@lru_cache(maxsize=4096)
def _expression(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*|<hex>)", pattern)
    return re.compile("".join(_WILDCARDS.get(part, re.escape(part)) for part in parts))


def is_valid_name(name: Any) -> bool:
    """Return whether a name is that of a file within the folder, and not the manifest's or the lock's."""
    if not isinstance(name, str) or "\\" in name or "\0" in name:
        return False

    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        return False

    # A pattern without a fixed part would be anybody's file.
    has_fixed_folder = len(path.parts) == 1 or not _is_pattern(path.parts[0])
    has_fixed_name = path.name.strip("*.") != ""
    return has_fixed_folder and has_fixed_name and name not in {MANIFEST, LOCK, HOLDER}


def find_paths(folder: Path, name: str) -> Iterator[Path]:
    """Yield the files, or the folder, that a name stands for in a folder.

    Nothing is yielded below a link: what lies there is outside of the folder.
    """
    *folders, last = PurePosixPath(name).parts
    parents = [folder]
    for part in folders:
        entries = [entry for parent in parents for entry in _find_entries(parent, part)]
        parents = [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]

    for parent in parents:
        yield from _find_entries(parent, last)


def _find_entries(folder: Path, part: str) -> Iterator[Path]:
    if not _is_pattern(part):
        if os.path.lexists(folder / part):
            yield folder / part
    elif folder.is_dir():
        for entry in sorted(folder.iterdir()):
            if matches(entry.name, part):
                yield entry
