"""Registries: models by name, each added by the module that defines it."""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from monkeylib import errors

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
            kind: what the entries are, for messages ("expert").
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
            otherwise: what else may be given, for the message ("or a set: cpu, paper").

        Raises:
            ValueError: no entry has that name.
        """
        return self.entries[errors.choose(self.kind, name, self.entries, otherwise=otherwise)]
