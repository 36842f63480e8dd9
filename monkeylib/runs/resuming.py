"""Whether a run may resume the one that its folder holds: the fingerprint must be the same, but for fields
that may change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from monkeylib import resources
from monkeylib.fields import describe_changes, differences
from monkeylib.runs.manifest import Manifest, code_version

State = Literal["new", "resumed", "finished"]


class RunDiffers(ValueError):
    """A folder holds a run with other settings.

    Fields:
        changes: old and new value of the settings with which it cannot go on.
    """

    def __init__(self, message: str, changes: Mapping[str, tuple[Any, Any]] | None = None) -> None:
        super().__init__(message)
        self.changes = dict(changes or {})


@dataclass(frozen=True)
class Comparison:
    """What a run is to the one that its folder holds.

    Fields:
        state: "new"; "resumed", where an unfinished run of the same fingerprint has been started; or
            "finished". A finished run of which a field has changed that may change is "finished", too: the
            caller knows whether there is something left to do.
        changes: old and new value of the fields that have changed and may.
        remarks: sentences for the user: what has changed since the run was started.
    """

    state: State = "new"
    changes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def compare(
    folder: Path,
    manifest: Manifest,
    fingerprint: Mapping[str, Any],
    may_change: Iterable[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Comparison:
    """Compare a run with the one that a folder holds.

    Args:
        folder: for the error.
        manifest: of the run that the folder holds.
        fingerprint: of the run that is to be started there, as nested fields of JSON values.
        may_change: dotted names of fields, or of groups of them, with which a run may go on all the same.
        defaults: values of fields that the manifest of an earlier version may lack.

    Raises:
        RunDiffers: another field has changed.
    """
    differing = differences(manifest.fingerprint, fingerprint, defaults)
    allowed = list(may_change)
    changes = {name: change for name, change in differing.items() if _is_within(name, allowed)}

    if refused := {name: change for name, change in differing.items() if name not in changes}:
        raise RunDiffers(
            f"{resources.display_path(folder)} holds a run of {manifest.kind} with other settings "
            f"({describe_changes(refused)}): replace it with --fresh, or name another folder",
            refused,
        )

    state: State = "finished" if manifest.finished else "resumed"
    return Comparison(state, changes, _remarks(changes, manifest.code, code_version()))


def _is_within(name: str, fields: Iterable[str]) -> bool:
    """Return whether a dotted name is one of the fields, or of a group of them."""
    return any(name == group or name.startswith(f"{group}.") for group in fields)


def _remarks(
    changes: Mapping[str, tuple[Any, Any]], old_code: Mapping[str, str], new_code: Mapping[str, str]
) -> list[str]:
    remarks = []
    if changes:
        remarks.append(f"settings changed since the run was started: {describe_changes(changes)}")
    if old_code != new_code:
        code_changes = describe_changes(differences(old_code, new_code))
        remarks.append(f"the code has changed since the run was started: {code_changes}")
    return remarks
