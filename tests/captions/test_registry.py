"""Registries: entries added by the modules of a package, which are imported at the first look-up."""

import importlib
import sys

import pytest

from monkeylib.captions.registry import Registry


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry whose package has a module with an entry, and a private one that must not be imported."""
    package = tmp_path / "tiny_registry_package"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from monkeylib.captions.registry import Registry\nREGISTRY = Registry('fruit', __name__)\n"
    )
    (package / "apple.py").write_text(
        "from tiny_registry_package import REGISTRY\nREGISTRY.add('apple', 1)\n"
    )
    (package / "_heavy.py").write_text("raise AssertionError('private modules are not imported')\n")
    monkeypatch.syspath_prepend(tmp_path)

    yield importlib.import_module("tiny_registry_package").REGISTRY
    # Other tests must be able to import a package of this name.
    for name in [name for name in sys.modules if name.startswith("tiny_registry_package")]:
        del sys.modules[name]


def test_modules_are_imported_at_the_first_look_up(registry):
    assert "tiny_registry_package.apple" not in sys.modules
    assert registry.find("apple") == 1 and registry.entries == {"apple": 1}


def test_unknown_name_raises_and_lists_the_names(registry):
    with pytest.raises(ValueError, match="no fruit called 'pear': choose one of apple, or a basket"):
        registry.find("pear", otherwise="or a basket")


def test_two_entries_of_one_name_raise():
    registry = Registry("fruit", __package__)
    registry.add("apple", 1)
    with pytest.raises(ValueError, match="two fruits called 'apple'"):
        registry.add("apple", 2)
