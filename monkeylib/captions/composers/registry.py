"""The registry of composers: each module of this package registers its own."""

from collections.abc import Callable

from monkeylib.captions.composers.base import Composer
from monkeylib.captions.registry import Factory, Registry

COMPOSERS: Registry[Callable[[], Composer]] = Registry("composer", __package__)


def register_composer(name: str) -> Callable[[Factory], Factory]:
    """Register the decorated class or function, which takes no arguments, under a name."""

    def register(build: Factory) -> Factory:
        COMPOSERS.add(name, build)
        return build

    return register


def load_composer(name: str) -> Composer:
    """Return a composer by its name. No weights are loaded yet.

    Raises:
        ValueError: there is no composer of that name, or it lacks a setting in the environment.
    """
    return COMPOSERS.find(name)()
