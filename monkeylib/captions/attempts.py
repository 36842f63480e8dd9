"""Which questions a process was working on when it ended, so that one that ends it each time is given up.

While a batch is asked, a note of its keys lies in the folder `working`, locked by the process that asks. The
operating system lifts the lock when that process ends, whatever ended it, so a note that nobody holds tells
of a death. Its keys are then noted in the folder `died`: those of a batch as suspects, that are asked alone
from then on; one that was asked alone with a count of the deaths. A file system without locks has every note
of another process taken for one of a dead process, which costs speed, and a count where several processes
ask about the same picture at once.
"""

import fcntl
import json
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from monkeylib import paths

MOST = 3  # processes that a question may end
_BATCH = "batch"


class ProcessEnded(RuntimeError):
    """The process of a model ended before it answered."""


@dataclass(frozen=True)
class Attempts:
    """The notes of one model, in folders of `home`, where its answers lie."""

    home: Path

    @contextmanager
    def working_on(self, keys: Sequence[str]) -> Iterator[None]:
        """Leave a note while questions are asked; it stays only if the process ends."""
        note = self.home / "working" / f"{uuid.uuid4().hex}.json"
        with paths.replacing(note) as temporary:
            file = temporary.open("w", encoding="utf-8")  # open, and so locked, until the block ends
            _lock(file)
            json.dump(list(keys), file)
            file.flush()
        try:
            yield
        finally:
            note.unlink(missing_ok=True)
            file.close()

    def ended(self) -> Counter[str]:
        """How many processes each suspect has ended while it was asked alone; 0 for one of a batch."""
        for note in (self.home / "working").glob("*.json"):
            if not note.name.startswith("."):  # not whole yet
                self._collect(note)
        found: Counter[str] = Counter()
        for path in (self.home / "died").glob("*.*"):
            key, _, death = path.name.partition(".")
            found[key] += death != _BATCH
        return found

    def blame(self, keys: Sequence[str], death: str = "") -> None:
        """Note that a process ended while it was asked these; `death` tells one end from another."""
        folder = self.home / "died"
        folder.mkdir(parents=True, exist_ok=True)
        death = (death or uuid.uuid4().hex) if len(keys) == 1 else _BATCH
        for key in keys:
            (folder / f"{key}.{death}").touch()

    def forgive(self, key: str) -> None:
        """Forget what a question was blamed for: it has an answer."""
        for path in (self.home / "died").glob(f"{key}.*"):
            path.unlink(missing_ok=True)

    def _collect(self, note: Path) -> None:
        """Blame the questions of a note whose process has ended; twice is as good as once."""
        try:
            with note.open("r+", encoding="utf-8") as file:
                if not _lock(file):
                    return
                self.blame(json.load(file), note.stem)
        except FileNotFoundError:  # another process was quicker
            return
        except ValueError:  # the machine went down before the note was on its disk
            pass
        note.unlink(missing_ok=True)


def _lock(file: IO[str]) -> bool:
    """Take a file's lock; False where a living process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks on this file system
        return True
    return True
