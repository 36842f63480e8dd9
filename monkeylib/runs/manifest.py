"""Manifest of a run, `run.json` in its folder: what it computes, with which code, and which files it owns."""

from __future__ import annotations

import contextlib
import json
import platform
import subprocess
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from monkeylib import resources
from monkeylib.runs.names import MANIFEST, is_valid_name

_EVERYTHING = "/**"


@dataclass(frozen=True)
class Manifest:
    """What `run.json` holds.

    Fields:
        kind: what writes into the folder, such as "training".
        finished: whether the run has written everything.
        fingerprint: what decides about the run's results, by field.
        files: names of the run's files; see `names`.
        obsolete: files of a replaced run that are still to be removed.
        code: versions of the library and of what it computes with, and the commit of a checkout.
        created, updated: local times.
        notes: what else the run records.
        started_by: what the environment variable `resources.STARTED_BY` held when the run began: the notebook
            of the series that has started it, nothing for a command in a terminal.
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
    started_by: str = ""


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
        raise FileExistsError(f"{resources.display_path(folder)} is a file: name a folder") from error
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
    return replace(manifest, files=_name_files(manifest.files), obsolete=_name_files(manifest.obsolete))


def _name_files(names: list[str]) -> list[str]:
    """Leave out the folders that earlier versions noted with all that they hold: anything may lie there."""
    return [name for name in names if not name.endswith(_EVERYTHING)]


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
        "started_by": str,
    }
    if not all(isinstance(getattr(manifest, name), type_) for name, type_ in types.items()):
        return False
    if not all(isinstance(version, str) for version in manifest.code.values()):
        return False

    # The names decide what may be removed: nothing outside of the folder, whatever the file says.
    names = [*manifest.files, *manifest.obsolete]
    return all(isinstance(name, str) and is_valid_name(name.removesuffix(_EVERYTHING)) for name in names)


def _not_a_manifest(file: Path) -> ValueError:
    return ValueError(
        f"{resources.display_path(file)} is damaged or not the record of a run: name another folder, or move "
        "this one away"
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
