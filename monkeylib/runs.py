"""Folders that a run writes into: what lies there of its own, who uses it, and whether a run may go on.

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
import platform
import re
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from filelock import FileLock, Timeout

from monkeylib import resources

MANIFEST, LOCK, HOLDER = "run.json", ".monkeylib.lock", ".monkeylib.lock.json"

State = Literal["new", "resumed", "finished"]

# What systems put into any folder; an otherwise empty folder is empty.
_SYSTEM_FILES = {".DS_Store", ".gitkeep", ".ipynb_checkpoints"}

# What `atomic_write` and `create_folder` leave behind when they are killed: `.stem.<12 hex digits>.suffix`.
_LEFTOVER = re.compile(r"\.(?P<stem>.+)\.[0-9a-f]{12}(?P<suffix>\.[^.]+)?")

# A run that is just ending is waited for.
_LOCK_SECONDS = 0.5

_LISTED_FIELDS = 12
_MISSING = "not set"
_ALL = "/**"  # ends the name of a folder that belongs to a run with everything in it


class RunDiffers(ValueError):
    """A folder holds a run with other settings."""


# --- manifest


@dataclass(frozen=True)
class Manifest:
    """What `run.json` holds.

    Fields:
        kind: what writes into the folder, such as "training".
        finished: whether the run has written everything.
        fingerprint: what decides about the run's results, by field.
        files: names of the run's files, relative to its folder, with `/`. The last part of a name may be a
            pattern such as `events.*`. A name that ends in `/` is a folder that the run created, and one that
            ends in `/**` a folder that belongs to it with everything in it.
        obsolete: files of a replaced run that are still to be removed.
        code: versions of the library and of what it computes with, and the commit of a checkout.
        created, updated: local times.
        notes: what else the run records.
    """

    kind: str
    finished: bool
    fingerprint: dict[str, Any]
    files: list[str] = field(default_factory=list)
    obsolete: list[str] = field(default_factory=list)
    code: dict[str, str] = field(default_factory=dict)
    created: str = ""
    updated: str = ""
    notes: dict[str, Any] = field(default_factory=dict)


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a run folder, None if the folder has none.

    Raises:
        ValueError: there is a `run.json`, but it is no manifest.
    """
    file = folder / MANIFEST
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise FileExistsError(f"{_display(folder)} is a file: name a folder") from error
    except UnicodeDecodeError as error:
        raise _not_a_manifest(file) from error

    try:
        manifest = Manifest(**json.loads(text))
        # As it is written again with every change: what is nested too deeply fails here.
        json.dumps(asdict(manifest))
    except (ValueError, TypeError, RecursionError) as error:
        raise _not_a_manifest(file) from error

    if not _has_valid_fields(manifest):
        raise _not_a_manifest(file)
    return manifest


def _has_valid_fields(manifest: Manifest) -> bool:
    """Return whether all fields of a manifest have their types, and all files names that a run may own."""
    types = {
        "kind": str,
        "finished": bool,
        "fingerprint": dict,
        "files": list,
        "obsolete": list,
        "code": dict,
        "created": str,
        "updated": str,
        "notes": dict,
    }
    if not all(isinstance(getattr(manifest, name), type_) for name, type_ in types.items()):
        return False
    if not all(isinstance(version, str) for version in manifest.code.values()):
        return False

    # The names decide what may be removed: nothing outside of the folder, whatever the file says.
    return all(_is_valid_name(name) for name in [*manifest.files, *manifest.obsolete])


def _not_a_manifest(file: Path) -> ValueError:
    return ValueError(
        f"{_display(file)} is damaged or not the record of a run: name another folder, or move this one away"
    )


def code_version() -> dict[str, str]:
    """Return the versions of Python, the library, torch and transformers, and the commit of a checkout."""
    versions = {"python": platform.python_version()}
    for package in ("monkeylib", "torch", "transformers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)

    if commit := _commit():
        versions["commit"] = commit
    return versions


def _commit() -> str:
    """Return the commit of the checkout, with "-dirty" if files were changed since; empty without one."""
    if not (resources.REPOSITORY / ".git").exists():
        return ""

    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        result = subprocess.run(
            command, cwd=resources.REPOSITORY, capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.strip()


# --- fingerprints


def flatten(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested fields by their dotted names: {"a": {"b": 1}} gives {"a.b": 1}."""
    flat = {}
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> dict[str, tuple[Any, Any]]:
    """Return the old and the new value of every field, by its dotted name, in which two fingerprints differ.

    Args:
        old, new: the fingerprints.
        defaults: values of fields that one of them lacks, such as a field that a later version has added.
    """
    old_fields, new_fields = flatten(_as_json(old)), flatten(_as_json(new))
    default_fields = flatten(_as_json(defaults or {}))

    changes = {}
    for name in [*new_fields, *(name for name in old_fields if name not in new_fields)]:
        default = default_fields.get(name, _MISSING)
        before, after = old_fields.get(name, default), new_fields.get(name, default)
        if before != after:
            changes[name] = (before, after)

    return changes


def _as_json(value: Any) -> Any:
    """Return a value as it comes back from a JSON file: tuples are lists there."""
    return json.loads(json.dumps(value))


def describe_changes(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Return changed fields in a line: "training.lr 0.001 -> 0.0001, training.seed 0 -> 1"."""
    listed = [f"{name} {_short(old)} -> {_short(new)}" for name, (old, new) in changes.items()]
    if len(listed) > _LISTED_FIELDS:
        listed[_LISTED_FIELDS:] = [f"and {len(listed) - _LISTED_FIELDS} more"]
    return ", ".join(listed)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if re.fullmatch(r"[0-9a-f]{32,}", text):
        return text[:12]
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- the folder


class RunFolder:
    """Folder of a run; see the module. Make one with `RunFolder.open`.

    Fields:
        path: the folder.
        state: "new"; "resumed", where an unfinished run of the same fingerprint has been started; or
            "finished". A finished run of which a field has changed that may change is "finished", too: the
            caller knows whether there is something left to do.
        changes: old and new value of the fields that have changed and may.
        remarks: sentences about a resumed run for its user: what has changed since it was started.
        manifest: what is known of the run; None in a folder without one.
    """

    def __init__(self, path: Path, kind: str, fingerprint: dict[str, Any], main_process: bool):
        self.path, self.kind, self.main_process = path, kind, main_process
        self.fingerprint = _as_json(fingerprint)
        self.state: State = "new"
        self.changes: dict[str, tuple[Any, Any]] = {}
        self.remarks: list[str] = []
        self.manifest: Manifest | None = None

        self._started = False
        self._adopted: set[str] = set()
        self._kept: set[str] = set()
        self._created_folders: list[Path] = []
        self._lock = FileLock(path / LOCK, timeout=_LOCK_SECONDS, thread_local=False)

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
        main_process: bool = True,
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
            keep: names in the manifest, such as that of a cache, which a run that replaces another one takes
                over.
            fresh: start anew whatever the fingerprint; `start` then removes the files of the previous run.
            main_process: whether this process writes. Others don't lock, and their `start`, `own` and
                `finish` change nothing.

        Raises:
            FileExistsError: the folder holds files of somebody else or a run of another kind, or is a file.
            BlockingIOError: another process uses the folder.
            RunDiffers: the fingerprint differs.
            ValueError: an input is a file of the previous run, or `run.json` is damaged.
            OSError: the folder can't be written.
        """
        run = cls(_absolute(path), kind, dict(fingerprint), main_process)
        run._kept = set(keep)
        run._adopted = set(adopt)
        # Refused before anything is created.
        run._read(may_change, defaults or {}, list(inputs), fresh)

        if main_process:
            run._acquire()
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
        """Read the manifest, and set state, changes and remarks.

        Raises: as `open`.
        """
        self.state, self.changes, self.remarks = "new", {}, []
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
        if fresh:
            return

        # Files that a killed `start` has still to remove are not of this run.
        self.state = "finished" if manifest.finished else "resumed"
        changes = differences(manifest.fingerprint, self.fingerprint, defaults)
        allowed = list(may_change)
        self.changes = {name: change for name, change in changes.items() if _is_within(name, allowed)}

        if refused := {name: change for name, change in changes.items() if name not in self.changes}:
            raise RunDiffers(
                f"{_display(self.path)} holds a run of {self.kind} with other settings "
                f"({describe_changes(refused)}): replace it with --fresh, or name another folder"
            )
        self._remark()

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
        foreign = [
            name for name in names if name not in own and _leftover_name(name) not in {MANIFEST, HOLDER}
        ]
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
            if any(file.startswith(f"{name}/") or _matches(name, file) for file in files):
                raise ValueError(
                    f"{_display(resolved)} is a file of the run in {_display(self.path)} and can't be its "
                    "input: name another folder for the new run"
                )

    def _remark(self) -> None:
        if self.changes:
            self.remarks.append(
                f"settings changed since the run was started: {describe_changes(self.changes)}"
            )

        old, new = self.manifest.code, code_version()
        if old != new:
            self.remarks.append(
                f"the code has changed since the run was started: {describe_changes(differences(old, new))}"
            )

    # Locking

    def _acquire(self) -> None:
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
            raise BlockingIOError(self._in_use()) from error
        except OSError as error:
            self._remove_created_folders()
            reason = error.strerror or str(error)
            raise type(error)(
                f"{_display(self.path)} can't be written to ({reason}): name another folder"
            ) from error

        holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": _now()}
        with resources.atomic_write(self.path / HOLDER) as temporary:
            temporary.write_text(json.dumps(holder), encoding="utf-8")

    def _in_use(self) -> str:
        """Return the sentence about the process that holds the lock."""
        try:
            holder = json.loads((self.path / HOLDER).read_text(encoding="utf-8"))
            process = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            process = "another process"
        sentence = (
            f"{_display(self.path)} is in use by {process}: wait until it has ended, or name another folder"
        )

        # Where the file system has no locks, the file is the lock, and a kill leaves it behind.
        if self._is_lock_of_its_own():
            sentence += f"; if that process is gone, remove {_display(self.path / LOCK)}"
        return sentence

    def _is_lock_of_its_own(self) -> bool:
        """Return whether the lock's file says who holds it: the file system keeps no locks then."""
        try:
            return (self.path / LOCK).stat().st_size > 0
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Release the folder. A new one in which no run was started disappears."""
        if not self._lock.is_locked:
            return

        (self.path / HOLDER).unlink(missing_ok=True)
        # While it is still held: whoever waits for this file finds it gone, and makes a new one. Where the
        # file system has no locks, the file is the lock, holds its owner, and goes with the release.
        if not self._is_lock_of_its_own():
            (self.path / LOCK).unlink(missing_ok=True)
        self._lock.release()

        if not self._started:
            self._remove_created_folders()

    def _remove_created_folders(self) -> None:
        for folder in self._created_folders:
            with contextlib.suppress(OSError):  # no longer empty
                folder.rmdir()
        self._created_folders = []

    # Running

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
                self.kind, False, self.fingerprint, files, obsolete, code_version(), created=now
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
            name: the file's name, relative to the folder. The last part may be a pattern, such as
                `tensorboard/events.*`, where a library chooses the name. `step-*/**` stands for folders that
                belong to the run with all that they hold.

        Raises:
            FileExistsError: there is such a file, but the run has not written it.
        """
        path = self.path / name
        if not self.main_process:
            return path

        self._require_started()
        self._register([name])
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
        # Noted, so that the next run removes what a killed one leaves.
        self._register([f"{name}/"])
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}")
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
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def owns(self, name: str) -> bool:
        """Return whether a file of this name belongs to the run, under this name or a pattern."""
        return self.manifest is not None and any(_matches(name, file) for file in self.manifest.files)

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
            self._write(replace(self.manifest, notes={**self.manifest.notes, **_as_json(notes)}))

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
            if not _is_valid_name(name):
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

        if name.endswith(_ALL):
            # Files of this name have a name of their own in the manifest.
            return next((path for path in self._paths(name.removesuffix(_ALL)) if path.is_dir()), None)
        return None if name.endswith("/") else next(self._paths(name), None)

    def _paths(self, name: str) -> Iterator[Path]:
        """Yield the files, or the folder, that a name of the manifest stands for.

        Nothing is yielded below a link: what lies there is outside of the folder.
        """
        path = self.path / name
        if any(parent.is_symlink() for parent in path.parents if self.path in parent.parents):
            return

        if "*" in name and path.parent.is_dir():
            for entry in path.parent.iterdir():
                if _matches(entry.name, path.name):
                    yield entry
        elif os.path.lexists(path):
            yield path

    def _remove_files(self, names: Iterable[str]) -> None:
        """Remove files of these names, and the folders that are empty then."""
        folders = set()
        for name in names:
            path = PurePosixPath(name)
            folders |= {self.path / parent for parent in path.parents if parent != PurePosixPath(".")}
            if name.endswith("/"):
                folders.add(self.path / path)
                continue
            if name.endswith(_ALL):
                for folder in self._paths(name.removesuffix(_ALL)):
                    if folder.is_dir() and not folder.is_symlink():
                        shutil.rmtree(folder)
                continue
            for file in self._paths(name):
                if file.is_symlink() or not file.is_dir():
                    file.unlink(missing_ok=True)

        # The deepest first.
        for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
            with contextlib.suppress(OSError):  # a link, missing, or with files of somebody else
                folder.rmdir()

    def _remove_leftovers(self) -> None:
        """Remove what killed runs have left of files and folders that had not got their names yet."""
        folders = {PurePosixPath(name).parent for name in [*self.manifest.files, MANIFEST]}
        names = {name.rstrip("/") for name in self.manifest.files} | {MANIFEST, HOLDER}

        for folder in folders:
            directory = self.path / folder
            if directory.is_symlink() or not directory.is_dir():
                continue
            for entry in directory.iterdir():
                target = _leftover_name(entry.name)
                if target is None or not any(_matches((folder / target).as_posix(), name) for name in names):
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)


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


def remove_leftovers(folder: Path) -> None:
    """Remove what killed runs have left below a folder that belongs to a run as a whole.

    Call it while the run's lock is held: another process may be about to rename such a file.
    """
    for directory, _, names in os.walk(folder):
        for name in names:
            if _leftover_name(name) is not None:
                Path(directory, name).unlink(missing_ok=True)


# --- names


def _leftover_name(name: str) -> str | None:
    """Return the name that a temporary file or folder would have got; None for any other name."""
    match = _LEFTOVER.fullmatch(name)
    return None if match is None else match["stem"] + (match["suffix"] or "")


def _matches(name: str, pattern: str) -> bool:
    """Return whether a name is the one of the manifest, whose last part may be a pattern."""
    if "*" not in pattern:
        return name == pattern
    return re.fullmatch(re.escape(pattern).replace(r"\*", "[^/]*"), name) is not None


def _is_valid_name(name: Any) -> bool:
    """Return whether a name is that of a file within the folder, and not the manifest's or the lock's."""
    if not isinstance(name, str) or "\\" in name or "\0" in name:
        return False
    path = PurePosixPath(name.removesuffix(_ALL))
    is_inside = bool(path.parts) and not path.is_absolute() and ".." not in path.parts
    has_pattern_at_end_only = not any("*" in part for part in path.parts[:-1])
    # A pattern without a fixed part would be anybody's file.
    has_fixed_part = is_inside and path.name.strip("*.") != ""
    return is_inside and has_pattern_at_end_only and has_fixed_part and name not in {MANIFEST, LOCK, HOLDER}


def _is_within(name: str, fields: Iterable[str]) -> bool:
    """Return whether a dotted name is one of the fields, or of a group of them."""
    return any(name == group or name.startswith(f"{group}.") for group in fields)


def _absolute(path: Path | str) -> Path:
    """Return an absolute path, with the home folder in place of `~`."""
    return Path(os.path.expanduser(path)).absolute()


def _display(path: Path) -> str:
    return resources.display_path(path)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
