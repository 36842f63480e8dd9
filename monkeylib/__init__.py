"""monkeylib: the Monkey large multimodal model, rebuilt as a library with an executable series of
notebooks."""

from typing import Any

__all__ = ["load_model"]


def __getattr__(name: str) -> Any:
    """Import `load_model` on first use, so that `import monkeylib` stays light."""
    if name == "load_model":
        from monkeylib.inference import load_model

        return load_model
    raise AttributeError(f"module 'monkeylib' has no attribute {name!r}")
