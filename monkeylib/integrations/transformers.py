"""Monkey among transformers' own models: `AutoModelForImageTextToText`, `AutoProcessor` and others find it.

transformers keeps lists of names: type of a model -> names of its classes, and imports
`transformers.models.TYPE` when one of them is needed. `list_monkey`, which `import monkeylib` calls, enters
Monkey in these lists and says what `transformers.models.monkey` is. Neither torch nor transformers is
imported for that: where transformers comes later, the names are entered while its lists are loaded.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_TYPE = "monkey"
# Its ViT alone, which may be the vision tower of another model.
_VISION_TYPE = "monkey_vision"
_MONKEY = f"transformers.models.{_TYPE}"
_AUTO = "transformers.models.auto"

# List of transformers -> its entries for Monkey
_ENTRIES: dict[str, dict[str, Any]] = {
    "CONFIG_MAPPING_NAMES": {_TYPE: "MonkeyConfig", _VISION_TYPE: "MonkeyVisionConfig"},
    "SPECIAL_MODEL_TYPE_TO_MODULE_NAME": {_VISION_TYPE: _TYPE},
    "PROCESSOR_MAPPING_NAMES": {_TYPE: "MonkeyProcessor"},
    "IMAGE_PROCESSOR_MAPPING_NAMES": {_TYPE: {"pil": "MonkeyImageProcessor"}},
}
# Class of `transformers.models.monkey` -> where it is defined
_CLASSES = {
    "MonkeyConfig": "monkeylib.model",
    "MonkeyVisionConfig": "monkeylib.model",
    "MonkeyForConditionalGeneration": "monkeylib.model",
    "MonkeyProcessor": "monkeylib.processing",
    "MonkeyImageProcessor": "monkeylib.image_processor",
}
# Where the lists lie. The other modules take theirs from the first one, and may change them.
_LISTS = "auto_mappings"
_USERS = ("configuration_auto", "processing_auto", "image_processing_auto")


def list_monkey() -> None:
    """Enter Monkey in transformers' lists of models, now or once transformers is imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())

    for name in (_LISTS, *_USERS):
        module = sys.modules.get(f"{_AUTO}.{name}")
        if module is not None:
            _enter(module)


def _enter(module: ModuleType) -> None:
    """Enter Monkey in the lists of a module."""
    for name, entries in _ENTRIES.items():
        models = getattr(module, name, None)
        if models is not None:
            for model_type, entry in entries.items():
                models.setdefault(model_type, entry)


class _Finder:
    """Finds `transformers.models.monkey`, and has Monkey entered in the lists when they are loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how a module is loaded, None for all modules but these two."""
        if fullname == _MONKEY:
            return ModuleSpec(fullname, _MonkeyLoader())
        if fullname != f"{_AUTO}.{_LISTS}":
            return None

        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_enter(module: ModuleType) -> None:
            execute(module)
            _enter(module)

        spec.loader.exec_module = execute_and_enter  # type: ignore[method-assign]
        return spec


class _MonkeyLoader:
    """Loads `transformers.models.monkey`, whose classes are imported once they are needed."""

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the module to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        """Say what the names of the module are."""

        def get(name: str) -> Any:
            if name not in _CLASSES:
                raise AttributeError(f"module {_MONKEY!r} has no attribute {name!r}")
            return getattr(import_module(_CLASSES[name]), name)

        vars(module)["__getattr__"] = get
