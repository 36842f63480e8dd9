"""Nested fields of settings by their dotted names, and what differs between two sets of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_LISTED_FIELDS = 12
_MOST_OF_A_GROUP = 2  # fields with a common beginning that are listed one by one where all are gone, or new
_MISSING = "not set"
_ONE_SIDED = ({(True, False)}, {(False, True)})  # where fields are missing: in the old set, or in the new one


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
    """Return the old and the new value of every field, by its dotted name, in which two sets differ.

    Args:
        old, new: nested fields of JSON values.
        defaults: values of fields that one of them lacks, such as a field that a later version has added.
    """
    old_fields, new_fields = flatten(as_json(old)), flatten(as_json(new))
    default_fields = flatten(as_json(defaults or {}))

    changes = {}
    for name in [*new_fields, *(name for name in old_fields if name not in new_fields)]:
        default = default_fields.get(name, _MISSING)
        before, after = old_fields.get(name, default), new_fields.get(name, default)
        if before != after:
            changes[name] = (before, after)

    return changes


def as_json(value: Any) -> Any:
    """Return a value as it comes back from a JSON file: tuples are lists there."""
    return json.loads(json.dumps(value))


def describe_changes(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Return changed fields in a line: "training.lr 0.001 -> 0.0001, training.seed 0 -> 1".

    Of a file, whose digest is compared: "base.model.safetensors has another content (35b… -> 77a…)". Many
    fields with a common beginning that are all new, or all gone, are told as one: "models.sam.* -> not set".
    """
    listed = [_describe(name, old, new) for name, (old, new) in _grouped(changes).items()]
    if len(listed) > _LISTED_FIELDS:
        listed[_LISTED_FIELDS:] = [f"and {len(listed) - _LISTED_FIELDS} more"]
    return ", ".join(listed)


def _grouped(changes: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """Return changes with one field in place of many that begin alike and are missing on the same side."""

    def is_missing(name: str) -> tuple[bool, bool]:
        old, new = changes[name]
        return old == _MISSING, new == _MISSING

    grouped: dict[str, tuple[Any, Any]] = {}
    for name, change in changes.items():
        parts = name.split(".")
        # The shortest beginning of two names or more whose fields are all missing where this one is.
        for length in range(2, len(parts)):
            start = ".".join(parts[:length]) + "."
            group = [other for other in changes if other.startswith(start)]
            if len(group) > _MOST_OF_A_GROUP and {is_missing(other) for other in group} in _ONE_SIDED:
                old, new = is_missing(name)
                grouped[f"{start}*"] = (_MISSING if old else "set", _MISSING if new else "set")
                break
        else:
            grouped[name] = change

    return grouped


def _describe(name: str, old: Any, new: Any) -> str:
    if _is_digest(old) and _is_digest(new):
        return f"{name} has another content ({old[:12]} -> {new[:12]})"
    return f"{name} {_short(old)} -> {_short(new)}"


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32,}", value) is not None


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if _is_digest(value):
        return text[:12]
    return text if len(text) <= 60 else f"{text[:57]}..."
