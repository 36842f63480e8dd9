"""Folder that a run writes into, of which nothing but the run's own files is ever changed or removed.

`RunFolder` keeps a manifest, `run.json`, of the settings, the data and the model of a run (its fingerprint)
and of every file that the run writes. What isn't in the manifest belongs to somebody else: it is never
changed or removed.

    with RunFolder.open(folder, "training", fingerprint, may_change=["training.steps"]) as run:
        if run.state == "finished":
            return
        ...                                      # read the data, load the model: nothing is changed yet
        run.start()                              # with `fresh`, the files of the previous run go now
        curves = run.own("metrics.csv")          # noted in the manifest, then written
        with run.create_folder("model") as temporary:
            ...                                  # files that appear together
        run.finish()
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from monkeylib import resources
from monkeylib.fields import as_json
from monkeylib.runs import resuming
from monkeylib.runs.lock import FolderLock
from monkeylib.runs.manifest import Manifest, code_version, read_manifest
from monkeylib.runs.names import (
    HOLDER,
    LOCK,
    MANIFEST,
    find_paths,
    is_valid_name,
    matches,
)

# What systems put into any folder; an otherwise empty folder is empty.
_SYSTEM_FILES = {".DS_Store", ".gitkeep", ".ipynb_checkpoints"}


class RunFolder:
    """Folder of a run; see the module. Make one with `RunFolder.open`.

    Fields:
        path: the folder.
        comparison: with the run that the folder holds.
        manifest: what is known of the run; None in a folder without one.
    """

    def __init__(self, path: Path, kind: str, fingerprint: dict[str, Any], main_process: bool):
        self.path, self.kind, self.main_process = path, kind, main_process
        self.fingerprint = as_json(fingerprint)
        self.comparison = resuming.Comparison()
        self.manifest: Manifest | None = None

        self._started = False
        self._adopted: set[str] = set()
        self._kept: set[str] = set()
        self._lock = FolderLock(path)

    @property
    def state(self) -> resuming.State:
        """Whether the run is new, or the folder holds an unfinished or a finished one of its settings."""
        return self.comparison.state

    @property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Old and new value of the fields that have changed and may."""
        return self.comparison.changes

    @property
    def remarks(self) -> list[str]:
        """Sentences about a resumed run for its user."""
        return self.comparison.remarks

    @classmethod
    def open(
        cls,
        path: Path | str,
        kind: str,
        fingerprint: Mapping[str, Any],
        *,
        may_change: Iterable[str] = (),
        defaults: Mapping[str, Any] | None = None,
        inputs: Iterable[Path] = (),
        adopt: Iterable[str] = (),
        keep: Iterable[str] = (),
        fresh: bool = False,
        lock: bool = True,
    ) -> RunFolder:
        """Lock a folder for a run and compare it with the run that it holds. No file is changed before
        `start`.

        Args:
            path: the folder; it need not exist.
            kind: what writes into it, such as "training".
            fingerprint: what decides about the run's results, as nested fields of JSON values.
            may_change: dotted names of fields, or of groups of them, with which a run may go on all the same.
            defaults: values of fields that the manifest of an earlier version may lack.
            inputs: files and folders that the run reads.
            adopt: names of files in the folder that become the run's if it has no manifest: those of an
                earlier version, which wrote none.
            keep: names in the manifest, such as those of a cache, which a run that replaces another one takes
                over.
            fresh: start anew whatever the fingerprint; `start` then removes the files of the previous run.
            lock: False only compares: the folder is not locked, and what `start`, `own` and `finish` would
                change stays as it is.

        Raises:
            FileExistsError: the folder holds files of somebody else or a run of another kind, or is a file.
            BlockingIOError: another process uses the folder.
            resuming.RunDiffers: the fingerprint differs.
            ValueError: an input is a file of the previous run, or `run.json` is damaged.
            OSError: the folder can't be written.
        """
        run = cls(_absolute(path), kind, dict(fingerprint), main_process=lock)
        run._kept = set(keep)
        run._adopted = set(adopt)
        # Refused before anything is created.
        run._read(may_change, defaults or {}, list(inputs), fresh)

        if lock:
            run._lock.acquire()
            # Another process may have started or finished a run in the meantime.
            try:
                run._read(may_change, defaults or {}, list(inputs), fresh)
            except BaseException:
                run.close()
                raise
        return run

    @classmethod
    def follow(cls, path: Path | str, kind: str) -> RunFolder:
        """Return a folder for a process that another one writes for: nothing is read, locked or changed."""
        return cls(_absolute(path), kind, {}, main_process=False)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Reading

    def _read(
        self, may_change: Iterable[str], defaults: Mapping[str, Any], inputs: list[Path], fresh: bool
    ) -> None:
        """Read the manifest, and compare.

        Raises: as `open`.
        """
        self.comparison = resuming.Comparison()
        manifest = self.manifest = read_manifest(self.path)

        if manifest is None:
            self._require_empty()
            return
        if manifest.kind != self.kind:
            raise FileExistsError(
                f"{_display(self.path)} holds a run of {manifest.kind}, not of {self.kind}: "
                "name another folder"
            )
        self._require_foreign(inputs)
        if not fresh:
            self.comparison = resuming.compare(self.path, manifest, self.fingerprint, may_change, defaults)

    def _require_empty(self) -> None:
        """Check that a folder without a manifest is missing or empty.

        Raises:
            FileExistsError: it is not.
        """
        try:
            names = sorted(entry.name for entry in self.path.iterdir())
        except FileNotFoundError:
            if self.path.is_symlink():
                raise FileExistsError(
                    f"{_display(self.path)} is a link to a folder that doesn't exist: name another folder"
                ) from None
            return
        except NotADirectoryError:
            raise FileExistsError(f"{_display(self.path)} is a file: name a folder") from None

        # A run that was killed before it had written its manifest leaves its lock.
        own = {LOCK, HOLDER, *_SYSTEM_FILES, *self._adopted}
        own |= {name for name in names if resources.leftover_name(name) in {MANIFEST, HOLDER}}
        foreign = [name for name in names if name not in own]
        if foreign:
            raise FileExistsError(
                f"{_display(self.path)} holds files that no run of monkeylib wrote, such as {foreign[0]}: "
                "name a new folder, or move them away"
            )

    def _require_foreign(self, inputs: list[Path]) -> None:
        """Check that no input is a file of the run, or a folder of such files.

        Raises:
            ValueError: one is.
        """
        folder = self.path.resolve()
        for path in inputs:
            resolved = _absolute(path).resolve()
            if not resolved.is_relative_to(folder):
                continue
            name = resolved.relative_to(folder).as_posix()
            files = [*self.manifest.files, *self.manifest.obsolete]
            if any(file.startswith(f"{name}/") or matches(name, file) for file in files):
                raise ValueError(
                    f"{_display(resolved)} is a file of the run in {_display(self.path)} and can't be its "
                    "input: name another folder for the new run"
                )

    # Running

    def close(self) -> None:
        """Release the folder. A new one in which no run was started disappears."""
        if self._lock.release() and not self._started:
            self._lock.remove_created_folders()

    def start(self) -> None:
        """Begin or resume the run: write its manifest, and remove the files of a run that it replaces.

        Call it when nothing can fail any more that a user could mend: data read, model loaded.
        """
        self._started = True
        if not self.main_process:
            return

        previous, now = self.manifest, _now()
        if self.state == "new":
            earlier = [*previous.obsolete, *previous.files] if previous else []
            obsolete = [name for name in earlier if name not in self._kept]
            files = [name for name in earlier if name in self._kept]
            files += [] if previous else sorted(self._adopted)
            manifest = Manifest(
                self.kind,
                False,
                self.fingerprint,
                files,
                obsolete,
                code_version(),
                created=now,
                started_by=os.environ.get(resources.STARTED_BY, ""),
            )
        else:
            manifest = replace(previous, finished=False, fingerprint=self.fingerprint, code=code_version())

        # Noted first: a run that is killed while it removes them leaves the rest to the next one.
        self._write(manifest)
        if manifest.obsolete:
            self._remove_files(manifest.obsolete)
            self._write(replace(manifest, obsolete=[]))
        self._remove_leftovers()

    def own(self, name: str) -> Path:
        """Note in the manifest that the run writes a file, and return its path.

        Args:
            name: the file's name, relative to the folder; a pattern, such as `tensorboard/events.*`, where a
                library chooses it, see `names`.

        Raises:
            FileExistsError: there is such a file, but the run has not written it.
        """
        path = self.path / name
        if not self.main_process:
            return path

        self._require_started()
        self._register([name])
        if "*" not in path.parent.as_posix():
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def own_all(self, names: Iterable[str]) -> None:
        """Note several names at once.

        Raises:
            FileExistsError: as `own`.
        """
        if self.main_process:
            self._require_started()
            self._register(list(names))

    @contextlib.contextmanager
    def create_folder(self, name: str) -> Iterator[Path]:
        """Yield a temporary folder whose files appear in the folder `name` if the block succeeds.

        They appear in one move. Only where somebody else's files lie in a folder of that name already do
        they appear one by one, beside them. Files of this name that the run has written before go.

        Raises:
            FileExistsError: a file of that name is there, but the run has not written it.
        """
        self._require_started()
        target = self.path / name
        temporary = resources.temporary_path(target)
        # Noted by its very name, so that the next run removes what a killed one leaves, and no other folder.
        mark = f"{temporary.relative_to(self.path).as_posix()}/"
        self._register([f"{name}/", mark])
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()

        try:
            yield temporary

            files = sorted(path.relative_to(temporary) for path in temporary.rglob("*") if not path.is_dir())
            previous = [file for file in self.manifest.files if file.startswith(f"{name}/")]
            self._register([f"{name}/{file.as_posix()}" for file in files])
            for file in files:
                resources.sync(temporary / file)
            self._remove_files(previous)

            if not target.exists():
                os.replace(temporary, target)
                resources.sync(target.parent)
            else:
                for file in files:
                    (target / file).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(temporary / file, target / file)
            self._write(replace(self.manifest, files=[file for file in self.manifest.files if file != mark]))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def owns(self, name: str) -> bool:
        """Return whether a file of this name belongs to the run, under this name or a pattern."""
        return self.manifest is not None and any(matches(name, file) for file in self.manifest.files)

    def remove_all(self, names: Iterable[str]) -> None:
        """Remove files of these names that the run owns, as given to `own`; what is foreign stays."""
        if not self.main_process:
            return
        self._require_started()
        names = {name for name in names if self.owns(name)}
        if names:
            self._remove_files(names)
            files = [file for file in self.manifest.files if file not in names]
            self._write(replace(self.manifest, files=files))

    def note(self, **notes: Any) -> None:
        """Record values in the manifest, beside the fingerprint."""
        if self.main_process:
            self._require_started()
            self._write(replace(self.manifest, notes={**self.manifest.notes, **as_json(notes)}))

    def finish(self) -> None:
        """Note in the manifest that the run is complete."""
        if self.main_process:
            self._require_started()
            self._write(replace(self.manifest, finished=True))

    # Files

    def _require_started(self) -> None:
        if not self._started:
            raise RuntimeError(f"the run in {_display(self.path)} has not been started: call start() first")

    def _write(self, manifest: Manifest) -> None:
        manifest = replace(manifest, updated=_now())
        with resources.atomic_write(self.path / MANIFEST, durable=True) as temporary:
            temporary.write_text(json.dumps(asdict(manifest), indent=1) + "\n", encoding="utf-8")
        self.manifest = manifest

    def _register(self, names: list[str]) -> None:
        """Add names to the manifest.

        Raises:
            FileExistsError: a file of somebody else has one of the names.
        """
        for name in names:
            if not is_valid_name(name):
                raise ValueError(f"a run's file needs a name within its folder, got {name!r}")

        new = [name for name in names if not self.owns(name)]
        for name in new:
            if obstacle := self._obstacle(name):
                raise FileExistsError(
                    f"{_display(obstacle.parent)}/{obstacle.name} is in the way and was not written by the "
                    "run: move it away"
                )
        if new:
            self._write(replace(self.manifest, files=[*self.manifest.files, *new]))

    def _obstacle(self, name: str) -> Path | None:
        """Return what keeps the run from writing a new file, or a folder, of this name."""
        path = self.path / name
        # Folders are shared, only their files belong to somebody. But what is written through a link lies
        # outside of the run's folder.
        folders = [parent for parent in path.parents if self.path in parent.parents]
        if name.endswith("/"):
            folders.append(path)
        for folder in folders:
            if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
                return folder

        return None if name.endswith("/") else next(find_paths(self.path, name), None)

    def _remove_files(self, names: Iterable[str]) -> None:
        """Remove files of these names, temporary folders, and the folders that are empty then.

        What else lies there stays.
        """
        folders = set()
        for name in names:
            if _is_temporary_folder(name) and not (self.path / name).is_symlink():
                shutil.rmtree(self.path / name, ignore_errors=True)
            elif name.endswith("/"):
                folders.add(self.path / name)
            parents = {self.path / parent for parent in PurePosixPath(name).parents}
            for path in find_paths(self.path, name):
                parents |= set(path.parents)
                if path.is_symlink() or not path.is_dir():
                    path.unlink(missing_ok=True)
            folders |= {folder for folder in parents if self.path in folder.parents}

        # The deepest first.
        for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
            with contextlib.suppress(OSError):  # a link, missing, or with files of somebody else
                folder.rmdir()

    def _remove_leftovers(self) -> None:
        """Remove what killed runs have left of files and folders that had not got their names yet.

        Such a folder is in the manifest. The name of such a file consists of one in the manifest and of
        random digits.
        """
        folders = [name for name in self.manifest.files if _is_temporary_folder(name)]
        if folders:
            self._remove_files(folders)
            files = [name for name in self.manifest.files if name not in folders]
            self._write(replace(self.manifest, files=files))

        targets: dict[str, set[str]] = {".": {MANIFEST, HOLDER}}
        for name in self.manifest.files:
            path = PurePosixPath(name)
            targets.setdefault(path.parent.as_posix(), set()).add(path.name)

        for parent, names in targets.items():
            folders = [self.path] if parent == "." else find_paths(self.path, parent)
            for folder in list(folders):
                if folder.is_symlink() or not folder.is_dir():
                    continue
                for entry in list(folder.iterdir()):
                    target = resources.leftover_name(entry.name)
                    if target is None or (entry.is_dir() and not entry.is_symlink()):
                        continue
                    if any(matches(target, name) for name in names):
                        entry.unlink(missing_ok=True)


def _is_temporary_folder(name: str) -> bool:
    """Return whether a name in the manifest is that of a folder whose files had not got their names yet."""
    return name.endswith("/") and resources.leftover_name(PurePosixPath(name).name) is not None


def clear(folder: Path) -> None:
    """Remove the files that a run has written into a folder, and its manifest.

    Where somebody else's files lie beside them, these stay, and with them an empty manifest: without one, no
    run could go there again.

    Raises:
        BlockingIOError: another process uses the folder.
        ValueError: its `run.json` is damaged.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return

    with RunFolder.open(folder, manifest.kind, manifest.fingerprint, fresh=True) as run:
        run.start()
        if {entry.name for entry in folder.iterdir()} <= {MANIFEST, LOCK, HOLDER}:
            (folder / MANIFEST).unlink()

    with contextlib.suppress(OSError):  # not empty
        folder.rmdir()


def _absolute(path: Path | str) -> Path:
    """Return an absolute path, with the home folder in place of `~`."""
    return resources.to_path(path).absolute()


def _display(path: Path) -> str:
    return resources.display_path(path)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
