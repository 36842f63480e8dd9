"""The package itself: what tab completion finds, and the version."""

from importlib import metadata

import pytest

import monkeylib


def test_public_names_are_listed_before_they_are_imported():
    assert {*monkeylib.__all__, "__version__"} <= set(dir(monkeylib))
    assert all(callable(getattr(monkeylib, name)) for name in monkeylib.__all__)


def test_version_is_that_of_the_installed_package():
    assert monkeylib.__version__ == metadata.version("monkeylib")
    with pytest.raises(AttributeError, match="no attribute 'gone'"):
        _ = monkeylib.gone
