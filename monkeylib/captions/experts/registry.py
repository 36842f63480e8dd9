"""The registry of experts, of their sets, and of image-text matchers.

Each module of this package registers its own experts:

    @register_expert("yolox", sets={"cpu": 2}, assets=("yolox-nano",))
    class YoloxRegions(Expert): ...

The licence, the batch size and the other defaults belong to the class.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from monkeylib import assets
from monkeylib.captions.experts.base import Expert, ImageTextMatcher
from monkeylib.captions.registry import Factory, Registry


@dataclass(frozen=True)
class ExpertEntry:
    """A registered expert.

    Attributes:
        build: class or function that returns the expert with its default settings.
        sets: the sets that the expert belongs to, with its position in each.
        assets: the assets with its weights; None if they come from the Hugging Face hub or elsewhere.
        smallest_segment: share of the image that its segments have to cover to be believed, 0..1.
    """

    build: Callable[[], Expert]
    sets: Mapping[str, int] = field(default_factory=dict)
    assets: tuple[str, ...] | None = None
    smallest_segment: float = 0.0


@dataclass(frozen=True)
class MatcherEntry:
    """A registered image-text matcher: how to build it, and the sets whose default it is."""

    build: Callable[[], ImageTextMatcher]
    sets: tuple[str, ...] = ()


EXPERTS: Registry[ExpertEntry] = Registry("expert", __package__)
MATCHERS: Registry[MatcherEntry] = Registry("matcher", __package__)


def register_expert(
    name: str,
    *,
    sets: Mapping[str, int] | None = None,
    assets: tuple[str, ...] | None = None,
    smallest_segment: float = 0.0,
) -> Callable[[Factory], Factory]:
    """Register the decorated class or function under a name; see `ExpertEntry`."""

    def register(build: Factory) -> Factory:
        EXPERTS.add(name, ExpertEntry(build, sets or {}, assets, smallest_segment))
        return build

    return register


def register_matcher(name: str, *, sets: tuple[str, ...] = ()) -> Callable[[Factory], Factory]:
    """Register the decorated class as an image-text matcher, the default one of some sets."""

    def register(build: Factory) -> Factory:
        MATCHERS.add(name, MatcherEntry(build, sets))
        return build

    return register


def expert_names() -> list[str]:
    """Return the names of all experts."""
    return list(EXPERTS.entries)


def expert_sets() -> dict[str, tuple[str, ...]]:
    """Return the sets: the names of the experts of each, in the order in which they run."""
    # {set: [(position, expert), ...]}
    members: dict[str, list[tuple[int, str]]] = {}
    for name, entry in EXPERTS.entries.items():
        for set_name, position in entry.sets.items():
            members.setdefault(set_name, []).append((position, name))

    return {
        set_name: tuple(name for _, name in sorted(positions))
        for set_name, positions in sorted(members.items())
    }


def _expand(names: str | Sequence[str]) -> Sequence[str]:
    """Return the names of a set's experts, of one expert, or of several as they are."""
    if isinstance(names, str):
        return expert_sets().get(names, (names,))
    return names


def load_experts(names: str | Sequence[str]) -> list[Expert]:
    """Return experts by their names, or those of a set ("cpu"). No weights are loaded yet.

    Raises:
        ValueError: there is no expert or set of that name.
    """
    otherwise = f"or a set: {', '.join(expert_sets())}"
    return [EXPERTS.find(name, otherwise).build() for name in _expand(names)]


def load_matcher(name: str, expert_set: str = "") -> ImageTextMatcher | None:
    """Return an image-text matcher by its name, or None for no matcher.

    Args:
        name: the matcher's name; "none" for no matcher; "auto" for the default of the set.
        expert_set: the set that "auto" refers to.

    Raises:
        ValueError: there is no matcher of that name.
    """
    if name == "auto":
        for entry in MATCHERS.entries.values():
            if expert_set in entry.sets:
                return entry.build()
        return None

    if name == "none":
        return None
    return MATCHERS.find(name, otherwise="auto or none").build()


def smallest_segment(names: str | Sequence[str]) -> float:
    """Return the share of the image that segments of these experts, or of a set, have to cover; 0 for any."""
    entries = EXPERTS.entries
    return max((entries[name].smallest_segment for name in _expand(names) if name in entries), default=0.0)


def missing_assets(name: str) -> list[str]:
    """Return the assets that an expert needs and that are not on this machine.

    Raises:
        ValueError: there is no expert of that name, or its weights are no assets.
    """
    needed = EXPERTS.find(name).assets
    if needed is None:
        raise ValueError(f"the weights of the expert {name!r} are no assets of this library: see its class")
    return [asset for asset in needed if assets.locate(assets.find(asset)) is None]
