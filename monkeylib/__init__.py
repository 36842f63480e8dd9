"""monkeylib: the Monkey large multimodal model, rebuilt as a library with an executable series of
notebooks."""

from importlib import import_module, metadata
from typing import Any

from monkeylib.integrations import transformers

# What is imported on first use, so that `import monkeylib` stays light: name -> module.
_MODULES = {
    "load_model": "monkeylib.inference",
    "check_raising": "monkeylib.raising",
    "load_raised": "monkeylib.raising",
    "raise_resolution": "monkeylib.raising",
}

# So that transformers' Auto classes and pipelines find Monkey.
transformers.list_monkey()
del transformers

__all__ = ["check_raising", "load_model", "load_raised", "raise_resolution"]


def __getattr__(name: str) -> Any:
    """Import a public function on first use; the version is that of the installed package."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    if name == "__version__":
        return metadata.version("monkeylib")
    raise AttributeError(f"module 'monkeylib' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List what is imported on first use, too."""
    return sorted([*globals(), *_MODULES, "__version__"])
