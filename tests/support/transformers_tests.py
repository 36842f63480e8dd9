"""The test mixins of transformers' own repository, which are in no installed package.

`TRANSFORMERS_TESTS` names a checkout of the installed version, or its unpacked source archive; the archive
lacks subfolders of `tests`, so the mixin for generation is in a checkout only.
"""

import importlib
import os
import re
import sys
import types
import unittest
from pathlib import Path

from monkeylib import resources

VARIABLE = "TRANSFORMERS_TESTS"
_PACKAGE = "transformers_tests"
# Modules in subfolders -> the mixin that others import from them
_IN_SUBFOLDERS = {
    "exporters.test_export": "ExportTesterMixin",
    "generation.test_utils": "GenerationTesterMixin",
}


def checkout() -> Path | None:
    """Return the folder that the environment names, None if it names none."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


def markers() -> set[str]:
    """Return the names of pytest's markers on transformers' tests, none without a checkout."""
    if checkout() is None:
        return set()
    # Imported here, since every run of our tests reads this module.
    from transformers import testing_utils

    sources = [*(checkout() / "tests").glob("test_*_common.py"), *(checkout() / "tests").glob("*/test_*.py")]
    sources.append(Path(testing_utils.__file__))
    names = [re.findall(r"\bmark\.([a-z_0-9]+)", path.read_text(encoding="utf-8")) for path in sources]
    return {name for found in names for name in found}


def explained() -> dict[str, str]:
    """Return the tests that Monkey does not pass, by the beginning of their names, and why not."""
    page = (resources.REPOSITORY / "docs/transformers.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `(test_\w+)` \| (.+) \|$", page, re.MULTILINE))


def skip_explained(case: unittest.TestCase) -> None:
    """Skip a test that `docs/transformers.md` explains."""
    for name, reason in explained().items():
        if case._testMethodName.startswith(name):
            case.skipTest(reason)


def load(module: str) -> types.ModuleType:
    """Import a module of transformers' tests under a name that does not clash with ours.

    Mixins that the folder lacks are empty.
    """
    if _PACKAGE not in sys.modules:
        _add_package(checkout() / "tests")
    return importlib.import_module(f"{_PACKAGE}.{module}")


def _add_package(folder: Path) -> None:
    package = types.ModuleType(_PACKAGE)
    package.__path__ = [str(folder)]
    sys.modules[_PACKAGE] = package

    # A script of the repository, outside of `tests`.
    if not (folder.parent / "utils/fetch_hub_objects_for_ci.py").exists():
        script = types.ModuleType("fetch_hub_objects_for_ci")
        script.url_to_local_path = lambda url, **options: url
        sys.modules["fetch_hub_objects_for_ci"] = script

    for name, mixin in _IN_SUBFOLDERS.items():
        if not (folder / name.replace(".", "/")).with_suffix(".py").exists():
            stand_in = types.ModuleType(f"{_PACKAGE}.{name}")
            setattr(stand_in, mixin, type(mixin, (), {}))
            sys.modules[f"{_PACKAGE}.{name}"] = stand_in
            parent = sys.modules.setdefault(
                f"{_PACKAGE}.{name.split('.')[0]}", types.ModuleType(f"{_PACKAGE}.{name.split('.')[0]}")
            )
            parent.__path__ = []
