"""monkeylib: the Monkey large multimodal model, rebuilt as a library with an executable series of
notebooks."""

from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import `load` on first use, so that `import monkeylib` stays light."""
    if name == "load":
        from monkeylib.inference import load

        return load
    raise AttributeError(f"module 'monkeylib' has no attribute {name!r}")
