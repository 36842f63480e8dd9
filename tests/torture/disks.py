"""Disks: full, read-only, and other file systems than that of temporary files."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.torture import sandbox
from tests.torture.cases import Case, Skipped, require_success
from tests.torture.kills import KINDS, Kind

# Of a run's own size, when the disk is full: at its beginning, in its middle and near its end.
SHARES = (0.05, 0.3, 0.6, 0.9)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for kind in KINDS:
        for share in SHARES:
            name = f"{kind.name} on a disk of {share:.0%} of what it needs"
            yield Case("disks", name, partial(_full, kind, share))
        yield Case("disks", f"{kind.name} on a read-only disk", partial(_read_only, kind))
        yield Case("disks", f"{kind.name} in memory, temporary files on a disk", partial(_elsewhere, kind))


@contextlib.contextmanager
def _mounted(folder: Path, size: int) -> Iterator[Path]:
    """Yield a new file system of `size` bytes.

    Raises:
        Skipped: this user may not mount one.
    """
    folder.mkdir()
    result = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True
    )
    if result.returncode:
        raise Skipped(f"no file system can be mounted here: {result.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", folder], check=True)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size + 4096 for path in folder.rglob("*"))


def _full(kind: Kind, share: float, folder: Path) -> str:
    """Run until the disk is full, make it larger, run again, and compare with an undisturbed run."""
    (folder / "reference").mkdir()
    command = kind.prepare(folder / "reference")
    prepared = _size(folder / "reference")
    require_success(sandbox.run(command, folder / "reference"), kind.done)
    needed = _size(folder / "reference") - prepared

    with _mounted(folder / "disk", prepared + int(needed * share) + 65536) as disk:
        command = kind.prepare(disk)
        outcome = sandbox.run(command, disk)
        if outcome.code == kind.done:
            differences = list(kind.compare(disk, folder / "reference"))
            assert not differences, f"it says that it succeeded, but {differences[0]}"
            return "it was enough"
        assert not outcome.has_traceback or "No space left" in outcome.last_line, outcome.output[-400:]
        assert "space" in outcome.output, f"exit code {outcome.code}: {outcome.output[-800:]}"

        _remount(disk, f"size={prepared + 10 * needed + (64 << 20)}")
        again = sandbox.run(command, disk)
        require_success(again, kind.done)
        differences = list(kind.compare(disk, folder / "reference"))
        assert not differences, "; ".join(differences)
    return "said, then resumed to the same end"


def _read_only(kind: Kind, folder: Path) -> str:
    with _mounted(folder / "disk", 64 << 20) as disk:
        command = kind.prepare(disk)
        _remount(disk, "ro")
        outcome = sandbox.run(command, folder / "log")
        assert outcome.code not in (kind.done, None), f"exit code {outcome.code}"
        assert "read-only" in outcome.output.lower(), outcome.output[-400:]
        _remount(disk, "rw")
    return outcome.last_line


def _elsewhere(kind: Kind, folder: Path) -> str:
    (folder / "reference").mkdir()
    reference = sandbox.run(kind.prepare(folder / "reference"), folder / "reference")
    require_success(reference, kind.done)
    with _mounted(folder / "disk", 256 << 20) as disk:
        outcome = sandbox.run(kind.prepare(disk), disk, environment={"TMPDIR": str(folder)})
        require_success(outcome, kind.done)
        differences = list(kind.compare(disk, folder / "reference"))
        assert not differences, "; ".join(differences)
        leftovers = [path.name for path in folder.iterdir() if path.name not in ("reference", "disk")]
        assert not leftovers, f"it left {leftovers} in the folder of temporary files"
    return "the same end"
