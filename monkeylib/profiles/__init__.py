"""Profiles: one YAML for each size of the whole series, from a smoke test to the paper.

A profile may `extends:` another one and then states only what differs.
"""

from pathlib import Path

from monkeylib import resources
from monkeylib.errors import choose, unknown_name
from monkeylib.profiles.build import build_config
from monkeylib.profiles.schema import Profile
from monkeylib.settings_files import Settings, read_yaml, validate

FOLDER = Path(__file__).parent

# From the smallest to the largest.
_ORDER = (
    "smoke",
    "nano",
    "nano-monkey",
    "small",
    "llava-448",
    "llava-672",
    "paper-896-qlora",
    "paper-896",
    "paper-1344",
)

# Profiles that extend each other, at most; the library's own need two.
_MAX_PARENTS = 10

__all__ = ["Profile", "build_config", "load_profile", "profile_names", "require_own_name"]


def profile_names() -> list[str]:
    """Return the names of all profiles, from the smallest to the largest."""
    names = {path.stem for path in FOLDER.glob("*.yaml")}
    return [name for name in _ORDER if name in names] + sorted(names.difference(_ORDER))


def load_profile(name: str) -> Profile:
    """Load a profile.

    Args:
        name: name of one of the library's profiles, or a YAML file, which may extend one of them.

    Raises:
        ValueError: there is none, its YAML does not fit the schema, or profiles extend each other in a
            circle. The message names file, line and field.
    """
    title = Path(name).stem if name.endswith(".yaml") else name
    settings = _read_with_parents(_find(name))

    if "name" in settings.values:
        raise ValueError(
            f"{settings.place(('name',))}, name: a profile is called after its file, here {title!r}: "
            "leave it out"
        )
    if resources.ends_as_of_a_seed(title):
        raise ValueError(
            f"a profile may not be called {title!r}: folders of runs end so that have another seed. Give "
            f"{resources.display_path(_find(name))} another name"
        )
    settings.values["name"] = title
    return validate(Profile, settings)


def require_own_name(profile: Profile) -> None:
    """Check that a profile has no other one's name, before something is kept under it.

    Raises:
        ValueError: one of the library's profiles is called so, and has other settings.
    """
    if profile.name in profile_names() and profile != load_profile(profile.name):
        raise ValueError(
            f"{profile.name} is a profile of the library, and this one has other settings: give its file "
            "another name, since results and runs of a profile lie under its name"
        )


def _find(name: str, folder: Path | None = None) -> Path:
    """Return the file of a profile, a relative one in `folder` or else in the working folder.

    Raises:
        ValueError: there is no such profile.
    """
    if not name.endswith(".yaml"):
        choose("profile", name, profile_names(), otherwise="or a YAML file")
        return FOLDER / f"{name}.yaml"

    candidates = [Path(name)] if folder is None else [folder / name, Path(name)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise unknown_name("profile", name, profile_names(), otherwise="or a YAML file")


def _read_with_parents(path: Path) -> Settings:
    """Return the YAML of a profile, merged over that of the profile which it extends, and so on."""
    chain: list[Settings] = []
    visited: list[Path] = []

    place = ""  # of the `extends` that led to the next one
    next_path: Path | None = path
    while next_path is not None:
        if next_path.resolve() in visited:
            names = " -> ".join(resources.display_path(file) for file in (*visited, next_path))
            raise ValueError(f"{place}, extends: the profiles extend each other: {names}")
        if len(chain) == _MAX_PARENTS:
            raise ValueError(f"{place}, extends: more than {_MAX_PARENTS} profiles extend one another")
        visited.append(next_path.resolve())
        chain.append(read_yaml(next_path))
        place = chain[-1].place(("extends",))
        next_path = _parent(chain[-1])

    # From the last parent to the profile itself.
    merged = chain.pop()
    while chain:
        merged = chain.pop().merged_over(merged)
    return merged


def _parent(settings: Settings) -> Path | None:
    """Return the file of the profile that these settings extend, None if they extend none."""
    if "extends" not in settings.values:
        return None

    place = f"{settings.place(('extends',))}, extends"
    name = settings.values["extends"]
    if not isinstance(name, str):
        raise ValueError(f"{place}: expected the name of a profile or a YAML file, got {name!r}")
    try:
        parent = _find(name, settings.path.parent)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error

    del settings.values["extends"]
    return parent
