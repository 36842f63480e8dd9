"""Registration of the pipeline's models: experts, image-text matchers and composers by name.

Each module of `captions.experts` and of `captions.composers` registers its own models:

    @register_expert("yolox", sets={"cpu": 2}, assets=("yolox-nano",))
    class YoloxRegions(Expert): ...

The licence, the batch size and the other defaults belong to the class.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from monkeylib import assets, errors
from monkeylib.captions.models import Composer, Expert, ImageTextMatcher

Entry = TypeVar("Entry")
Factory = TypeVar("Factory", bound=Callable[..., Any])  # a class or a function that a decorator registers


class Registry(Generic[Entry]):
    """Entries by name. Adding an entry means adding a module to the registry's package, and nothing else.

    The modules are imported at the first look-up, in alphabetical order. They must be cheap to import:
    heavy libraries such as torch are imported where they are used, or in modules whose name begins with an
    underscore, which are left out.
    """

    def __init__(self, kind: str, package: str) -> None:
        """Create an empty registry.

        Args:
            kind: noun for an entry, for messages ("expert").
            package: full name of the package whose modules add entries.
        """
        self.kind, self.package = kind, package
        self._entries: dict[str, Entry] = {}
        self._discovered = False

    def add(self, name: str, entry: Entry) -> None:
        """Add an entry; called while the module that defines it is imported.

        Raises:
            ValueError: another entry has that name.
        """
        if name in self._entries:
            raise ValueError(f"there are two {self.kind}s called {name!r}: rename one of them")
        self._entries[name] = entry

    @property
    def entries(self) -> dict[str, Entry]:
        """All entries by name."""
        if not self._discovered:
            # Importing a module runs its decorators, which add the entries.
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                if not module.name.startswith("_"):
                    importlib.import_module(f"{self.package}.{module.name}")
            self._discovered = True

        return self._entries

    def find(self, name: str, otherwise: str = "") -> Entry:
        """Return an entry by its name.

        Args:
            name: the name.
            otherwise: alternatives to a name, for the message ("or a set: cpu, paper").

        Raises:
            ValueError: no entry has that name.
        """
        return self.entries[errors.choose(self.kind, name, self.entries, otherwise=otherwise)]


@dataclass(frozen=True)
class ExpertEntry:
    """A registered expert.

    Attributes:
        build: class or function that returns the expert with its default settings.
        sets: the sets that the expert belongs to, with its position in each.
        assets: the assets with its weights; None if they come from elsewhere, as `weights_from` says.
        weights_from: in a few words, where weights that are no assets come from.
        smallest_segment: share of the image that its segments have to cover to be believed, 0..1.
    """

    build: Callable[[], Expert]
    sets: Mapping[str, int] = field(default_factory=dict)
    assets: tuple[str, ...] | None = None
    weights_from: str = "from a hub"
    smallest_segment: float = 0.0


@dataclass(frozen=True)
class MatcherEntry:
    """A registered image-text matcher: how to build it, and the sets whose default it is."""

    build: Callable[[], ImageTextMatcher]
    sets: tuple[str, ...] = ()


EXPERTS: Registry[ExpertEntry] = Registry("expert", "monkeylib.captions.experts")
MATCHERS: Registry[MatcherEntry] = Registry("matcher", "monkeylib.captions.experts")
COMPOSERS: Registry[Callable[[], Composer]] = Registry("composer", "monkeylib.captions.composers")


def register_expert(
    name: str,
    *,
    sets: Mapping[str, int] | None = None,
    assets: tuple[str, ...] | None = None,
    weights_from: str = "from a hub",
    smallest_segment: float = 0.0,
) -> Callable[[Factory], Factory]:
    """Register the decorated class or function under a name; see `ExpertEntry`."""

    def register(build: Factory) -> Factory:
        EXPERTS.add(name, ExpertEntry(build, sets or {}, assets, weights_from, smallest_segment))
        return build

    return register


def register_matcher(name: str, *, sets: tuple[str, ...] = ()) -> Callable[[Factory], Factory]:
    """Register the decorated class as an image-text matcher, the default one of some sets."""

    def register(build: Factory) -> Factory:
        MATCHERS.add(name, MatcherEntry(build, sets))
        return build

    return register


def register_composer(name: str) -> Callable[[Factory], Factory]:
    """Register the decorated class or function, which takes no arguments, under a name."""

    def register(build: Factory) -> Factory:
        COMPOSERS.add(name, build)
        return build

    return register


def expert_names() -> list[str]:
    """Return the names of all experts."""
    return list(EXPERTS.entries)


def expert_sets() -> dict[str, tuple[str, ...]]:
    """Return the names of the experts of each set, in the order in which they run."""
    # {set: [(position, expert), ...]}
    members: dict[str, list[tuple[int, str]]] = {}
    for name, entry in EXPERTS.entries.items():
        for set_name, position in entry.sets.items():
            members.setdefault(set_name, []).append((position, name))

    return {
        set_name: tuple(name for _, name in sorted(positions))
        for set_name, positions in sorted(members.items())
    }


def expand_names(names: str | Sequence[str]) -> list[str]:
    """Return the names of experts, with those of its experts in place of a set's; each once."""
    sets = expert_sets()
    names = [names] if isinstance(names, str) else names
    return list(dict.fromkeys(expert for name in names for expert in sets.get(name, (name,))))


def load_experts(names: str | Sequence[str]) -> list[Expert]:
    """Return experts by their names, by that of a set ("cpu"), or both. No weights are loaded yet.

    Raises:
        ValueError: there is no expert or set of that name.
    """
    otherwise = f"or a set: {', '.join(expert_sets())}"
    return [EXPERTS.find(name, otherwise).build() for name in expand_names(names)]


def load_matcher(name: str, expert_set: str = "") -> ImageTextMatcher | None:
    """Return an image-text matcher by its name, or None for no matcher.

    Args:
        name: the matcher's name; "none" for no matcher; "auto" for the default of the set.
        expert_set: the set that "auto" refers to.

    Raises:
        ValueError: there is no matcher of that name.
    """
    if name == "auto":
        # The first matcher that is a default of the set.
        for entry in MATCHERS.entries.values():
            if expert_set in entry.sets:
                return entry.build()
        return None

    if name == "none":
        return None
    return MATCHERS.find(name, otherwise="auto or none").build()


def load_composer(name: str) -> Composer:
    """Return a composer by its name. No weights are loaded yet.

    Raises:
        ValueError: there is no composer of that name, or it lacks a setting in the environment.
    """
    return COMPOSERS.find(name)()


def smallest_segment(names: str | Sequence[str]) -> float:
    """Return the share of the image that segments of these experts, or of a set, have to cover; 0 for any."""
    entries = EXPERTS.entries
    # One threshold for all segments of a run: the strictest.
    return max(
        (entries[name].smallest_segment for name in expand_names(names) if name in entries), default=0.0
    )


def missing_assets(name: str) -> list[str]:
    """Return the assets of an expert that are missing on this machine.

    Raises:
        ValueError: there is no expert of that name, or its weights are no assets.
    """
    needed = EXPERTS.find(name).assets
    if needed is None:
        raise ValueError(f"the weights of the expert {name!r} are no assets of this library: see its class")
    return [asset for asset in needed if assets.locate(assets.find(asset)) is None]
