"""Models of transformers as experts: which weights they are, where they come from, where they run.

Weights come from the hub at a pinned revision, or from a folder: with the environment variable
MONKEYLIB_WEIGHTS set to `folder`, the weights of `owner/name` are taken from `folder/name` if that is there.
"""

import gc
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from monkeylib.captions.experts.base import Model
from monkeylib.digests import folder_digest

WEIGHTS = "MONKEYLIB_WEIGHTS"
Item = TypeVar("Item")


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Parts of at most `size` items, in order."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class Pretrained(Model):
    """A model with a processor, both of transformers; loaded when first needed, freed by `release`.

    Subclasses name the hub's repository, the revision, the classes, and what the numbers on the GPU are.
    `version` and `settings` hold the repository and the revision, or of a folder its name and fingerprint.
    """

    hub: str
    revision: str
    network: str  # class of transformers
    processor: str  # class of transformers
    precision: str = "float32"  # on a GPU; on a CPU it is always float32

    def __init__(self, device: str = "auto", dtype: str = "auto", batch_size: int = 8) -> None:
        """Nothing is loaded yet.

        Args:
            device: "cpu", "cuda", "cuda:1"; "auto" is the GPU if there is one.
            dtype: "float32", "float16", "bfloat16"; "auto" is the model's `precision` on a GPU, else float32.
            batch_size: images or crops that go through the network at once; no result depends on it.
        """
        self.device, self.dtype, self.batch_size = device, dtype, batch_size
        if device == "cpu":
            self.gpu_share = 0.0
        self._loaded: tuple[Any, Any] | None = None

    @property
    def folder(self) -> Path | None:
        """The folder of the weights under $MONKEYLIB_WEIGHTS, or None where they come from the hub."""
        root = os.environ.get(WEIGHTS)
        folder = Path(root) / self.hub.rsplit("/", 1)[-1] if root else None
        return folder if folder and folder.is_dir() else None

    @cached_property
    def _identity(self) -> tuple[str, str]:
        folder = self.folder
        return (folder.name, folder_digest(folder)) if folder else (self.hub, self.revision)

    @property
    def version(self) -> str:
        """The name of the weights, and the beginning of their revision."""
        name, revision = self._identity
        return f"{name.rsplit('/', 1)[-1]}@{revision[:12]}"

    @property
    def settings(self) -> dict[str, Any]:
        """The weights with their whole revision, and the numbers they are computed in."""
        name, revision = self._identity
        return {"weights": name, "revision": revision, "dtype": self._place()[1]}

    def _place(self) -> tuple[str, str]:
        """Device and precision, decided."""
        import torch

        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        auto = "float32" if device == "cpu" else self.precision
        return device, auto if self.dtype == "auto" else self.dtype

    def prepare(self) -> None:
        """Load the weights.

        Raises:
            FileNotFoundError: they are neither in a folder nor in the hub's cache, and can't be fetched.
        """
        _ = self.parts

    def release(self) -> None:
        """Free the weights."""
        if self._loaded is None:
            return
        import torch

        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def parts(self) -> tuple[Any, Any]:
        """The network and its processor."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _load(self) -> tuple[Any, Any]:
        import torch
        import transformers

        device, dtype = self._place()
        source = {"pretrained_model_name_or_path": str(self.folder or self.hub)}
        if not self.folder:
            source["revision"] = self.revision
        try:
            network = getattr(transformers, self.network).from_pretrained(
                **source, dtype=getattr(torch, dtype)
            )
            processor = getattr(transformers, self.processor).from_pretrained(**source)
        except OSError as error:
            name = self.hub.rsplit("/", 1)[-1]
            raise FileNotFoundError(
                f"The weights {self._identity[0]} can't be loaded ({str(error).splitlines()[0]}): fetch them "
                f"with `hf download {self.hub} --revision {self.revision}` on a machine that is online, or "
                f"set {WEIGHTS} to a folder that holds them as {name}."
            ) from error
        return network.to(device).eval(), processor
