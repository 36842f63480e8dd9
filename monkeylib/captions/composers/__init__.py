"""The composers of the caption pipeline, by name. Importing this loads no model."""

from collections.abc import Callable

from monkeylib.captions.composers.rules import RuleComposer
from monkeylib.captions.experts.base import Composer
from monkeylib.errors import choose


def _chat() -> Composer:
    from monkeylib.captions.composers.chat import ChatComposer

    return ChatComposer.from_environment()


def _smollm2() -> Composer:
    from monkeylib.captions.composers.smollm2 import SmolLm2Composer

    return SmolLm2Composer()


COMPOSERS: dict[str, Callable[[], Composer]] = {"rules": RuleComposer, "chat": _chat, "smollm2": _smollm2}


def load(name: str) -> Composer:
    """The composer of a name.

    Raises:
        ValueError: there is no composer of that name, or it lacks a setting in the environment.
    """
    return COMPOSERS[choose("composer", name, COMPOSERS)]()
