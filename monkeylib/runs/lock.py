"""Lock of a run's folder: one process writes there, and another one is told which."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from monkeylib import resources
from monkeylib.runs.names import HOLDER, LOCK

# A run that is just ending is waited for.
_SECONDS = 0.5


class FolderLock:
    """Lock of a folder, which is created if it is missing.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / LOCK, timeout=_SECONDS, thread_local=False)
        self._created_folders: list[Path] = []

    def acquire(self) -> None:
        """Create and lock the folder.

        Raises:
            BlockingIOError: another process uses it.
            OSError: it can't be written.
        """
        missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._created_folders = missing
            self._lock.acquire()
        except Timeout as error:
            raise BlockingIOError(self._describe_holder()) from error
        except OSError as error:
            self.remove_created_folders()
            reason = error.strerror or str(error)
            raise type(error)(
                f"{resources.display_path(self.path)} can't be written to ({reason}): name another folder"
            ) from error

        since = datetime.now().astimezone().isoformat(timespec="seconds")
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
        with resources.atomic_write(self.path / HOLDER) as temporary:
            temporary.write_text(json.dumps(holder), encoding="utf-8")

    def _describe_holder(self) -> str:
        """Return the sentence about the process that holds the lock."""
        try:
            holder = json.loads((self.path / HOLDER).read_text(encoding="utf-8"))
            process = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            process = "another process"
        sentence = (
            f"{resources.display_path(self.path)} is in use by {process}: wait until it has ended, or name "
            "another folder"
        )

        # Where the file system has no locks, the file is the lock, and a kill leaves it behind.
        if self._is_file_alone():
            sentence += f"; if that process is gone, remove {resources.display_path(self.path / LOCK)}"
        return sentence

    def _is_file_alone(self) -> bool:
        """Return whether the lock's file says who holds it: the file system keeps no locks then."""
        try:
            return (self.path / LOCK).stat().st_size > 0
        except FileNotFoundError:
            return False

    def release(self) -> bool:
        """Release the folder, and return whether it was locked."""
        if not self._lock.is_locked:
            return False

        (self.path / HOLDER).unlink(missing_ok=True)
        # While it is still held: whoever waits for this file finds it gone, and makes a new one. Where the
        # file system has no locks, the file is the lock, holds its owner, and goes with the release.
        if not self._is_file_alone():
            (self.path / LOCK).unlink(missing_ok=True)
        self._lock.release()
        return True

    def remove_created_folders(self) -> None:
        """Remove the folders that `acquire` has created, if they are still empty."""
        for folder in self._created_folders:
            with contextlib.suppress(OSError):  # no longer empty
                folder.rmdir()
        self._created_folders = []
