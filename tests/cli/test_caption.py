"""The help of `monkeylib caption` names what the registries hold, which it doesn't import."""

from typing import get_args

from monkeylib.captions import registry
from monkeylib.cli import caption


def help_of(option: object) -> str:
    return get_args(option)[1].help or ""


def test_help_names_the_expert_sets():
    assert f"({', '.join(registry.expert_sets())})" in help_of(caption.Experts)


def test_help_names_the_composers():
    text = help_of(caption.ComposerName)
    assert all(name in text for name in registry.COMPOSERS.entries)
