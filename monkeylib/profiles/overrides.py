"""Override single fields of a profile: `training.lr=1e-4`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from monkeylib.errors import first_problem, nearest, problem_location
from monkeylib.fields import flatten
from monkeylib.profiles.raised import RaisedProfile
from monkeylib.profiles.schema import Profile
from monkeylib.profiles.trainable import trainable_components

P = TypeVar("P", Profile, RaisedProfile)

# A profile is called after its file, and folders of runs after it.
_FIXED = ("name",)


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Return the values of texts such as "training.lr=1e-4", by the dotted names of their fields.

    A value is YAML: a number, a text, `true`, `null`, or a list in brackets.

    Raises:
        ValueError: a text is not of this form, its value is no YAML, or a field is set twice.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        name = name.strip()
        if not separator or not name:
            raise ValueError(
                f"--set takes a field of the profile and its value, such as training.lr=1e-4, got "
                f"{assignment!r}"
            )
        if name in values:
            raise ValueError(f"--set gives {name} twice: leave one of them out")

        try:
            values[name] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ValueError(
                f"--set {assignment}: expected a number, a text, or a list in brackets after the equals sign"
            ) from error

    return values


def override(profile: P, values: Mapping[str, Any]) -> P:
    """Return the profile with other values of some fields, by their dotted names.

    Raises:
        ValueError: there is no such field, or it cannot have this value.
    """
    if not values:
        return profile

    schema = type(profile)
    fields = profile.model_dump()
    for name, value in values.items():
        if name in _FIXED:
            raise ValueError(f"the field {name} of a profile cannot be set: it is the name of its file")

        # The named choices of what trains, spelled out where one of their parts is set.
        is_named = isinstance(fields["training"]["components"], str)
        if name.startswith("training.components.") and is_named and isinstance(profile, Profile):
            fields["training"]["components"] = trainable_components(profile).model_dump()

        section: Any = fields
        *path, last = name.split(".")
        for part in path:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            raise _unknown_field(name, profile)
        section[last] = value

    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        location = ".".join(map(str, problem_location(error, schema)))
        if location in values and any(problem["type"] == "extra_forbidden" for problem in error.errors()):
            raise _unknown_field(location, profile) from None
        raise ValueError(
            f"the overridden profile does not fit: {first_problem(error, 'it', schema)}"
        ) from None


def _unknown_field(name: str, profile: Profile | RaisedProfile) -> ValueError:
    """Return the error for a field that does not exist, with the one that is probably meant."""
    fields = list(flatten(profile.model_dump()))
    section, _, last = name.rpartition(".")

    # The last part alone is often right.
    same_end = [field for field in fields if field.rpartition(".")[2] == last]
    if same_end:
        return ValueError(f"a profile has no field {name}: did you mean {same_end[0]}?")

    prefix = f"{section}." if section else ""
    siblings = [field.removeprefix(prefix).split(".")[0] for field in fields if field.startswith(prefix)]
    siblings = list(dict.fromkeys(siblings))
    if hint := nearest(last, siblings):
        return ValueError(f"a profile has no field {name}: {hint}")
    listed = f": {section or 'it'} has {', '.join(siblings)}" if siblings else ""
    return ValueError(f"a profile has no field {name}{listed}")
