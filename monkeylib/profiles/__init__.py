"""Profiles: one YAML for each size of the whole series, from a smoke test to the paper.

A profile may `extends:` another one and then states only what differs.
"""

from pathlib import Path
from typing import Any

import yaml

from monkeylib.errors import choose
from monkeylib.profiles.build import build_config
from monkeylib.profiles.schema import Profile

FOLDER = Path(__file__).parent

# From the smallest to the largest.
_ORDER = (
    "smoke",
    "nano",
    "small",
    "llava-448",
    "llava-672",
    "paper-896-qlora",
    "paper-896",
    "paper-1344",
)

__all__ = ["Profile", "build_config", "load_profile", "profile_names"]


def profile_names() -> list[str]:
    """Return the names of all profiles, from the smallest to the largest."""
    names = {path.stem for path in FOLDER.glob("*.yaml")}
    return [name for name in _ORDER if name in names] + sorted(names.difference(_ORDER))


def load_profile(name: str) -> Profile:
    """Load a profile.

    Args:
        name: name of one of the library's profiles, or a YAML file, which may extend one of them.

    Raises:
        ValueError: there is none, or its YAML does not fit the schema.
    """
    title = Path(name).stem if name.endswith(".yaml") else name
    return Profile(name=title, **_read_yaml(name))


def _read_yaml(name: str) -> dict[str, Any]:
    """Return the YAML of a profile, merged over that of the profile which it extends."""
    file = Path(name) if name.endswith(".yaml") else FOLDER / f"{name}.yaml"
    if not file.is_file():
        choose("profile", name, profile_names(), otherwise="or a YAML file")

    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    parent = values.pop("extends", None)
    return values if parent is None else _merge(_read_yaml(parent), values)


def _merge(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `override`, section by section."""
    merged = dict(base)
    for key, value in override.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            # A section states only what differs in it.
            merged[key] = _merge(base[key], value)
        else:
            merged[key] = value

    return merged
