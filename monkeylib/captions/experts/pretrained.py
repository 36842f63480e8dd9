"""Models in PyTorch as experts: their weights, and the device and data type that they run in.

Weights of transformers' models come from the Hugging Face hub at a pinned revision, or from a folder: with
the environment variable MONKEYLIB_WEIGHTS set to `folder`, those of `owner/name` are taken from `folder/name`
if it exists.
"""

import gc
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from monkeylib.captions.models import Model
from monkeylib.digests import folder_digest

WEIGHTS = "MONKEYLIB_WEIGHTS"
Item = TypeVar("Item")

_WEIGHT_SUFFIXES = (".safetensors", ".bin")
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_HUB_TIMEOUT = 20.0  # seconds in which the hub has to show that it has the weights


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yield batches of at most `size` items, in order."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class TorchModel(Model):
    """A network and its processor or tokenizer, loaded on demand and freed by `release`."""

    def __init__(self, device: str = "auto", batch_size: int = 8) -> None:
        """Create the model; nothing is loaded yet.

        Args:
            device: "cpu", "cuda", "cuda:1"; "auto" is the GPU if there is one.
            batch_size: number of images or crops per forward pass; results do not depend on it.
        """
        self.device, self.batch_size = device, batch_size
        if device == "cpu":
            self.gpu_share = 0.0
        self._loaded: tuple[Any, Any] | None = None

    @property
    def resolved_device(self) -> str:
        """The device, with "auto" resolved."""
        import torch

        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    def prepare(self) -> None:
        """Load the weights.

        Raises:
            FileNotFoundError: they are not where they are looked for, and can't be fetched.
        """
        _ = self.parts

    def release(self) -> None:
        """Free the weights."""
        if self._loaded is None:
            return

        import torch

        self._loaded = None

        # Networks hold reference cycles, so the memory is only free after a collection.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def parts(self) -> tuple[Any, Any]:
        """The network and its processor or tokenizer."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    @abstractmethod
    def _load(self) -> tuple[Any, Any]:
        """Return the network on its device, and its processor or tokenizer."""


class Pretrained(TorchModel):
    """A model and its processor from transformers.

    `version` and `settings` hold the repository and the revision, or the name and the digest of a folder.

    Attributes:
        hub: repository on the hub.
        revision: commit of the repository.
        network: name of the model's class in transformers.
        processor: name of the processor's class in transformers.
        precision: data type on a GPU; on a CPU it is always float32.
    """

    hub: str
    revision: str
    network: str
    processor: str
    precision: str = "float32"

    def __init__(self, device: str = "auto", dtype: str = "auto", batch_size: int = 8) -> None:
        """Create the model; nothing is loaded yet.

        Args:
            device: see `TorchModel`.
            dtype: "float32", "float16", "bfloat16"; "auto" is the model's `precision` on a GPU, else float32.
            batch_size: see `TorchModel`.
        """
        super().__init__(device, batch_size)
        self.dtype = dtype

    @property
    def folder(self) -> Path | None:
        """The folder of the weights under $MONKEYLIB_WEIGHTS, or None where they come from the hub."""
        root = os.environ.get(WEIGHTS)
        if not root:
            return None

        # "Salesforce/blip2-opt-2.7b" -> "blip2-opt-2.7b"
        folder = Path(root) / self.hub.rsplit("/", 1)[-1]
        return folder if folder.is_dir() else None

    @cached_property
    def _identity(self) -> tuple[str, str]:
        """Name and revision of the weights."""
        if self.folder:
            # A folder has no commit: the digest of its files takes its place.
            return self.folder.name, folder_digest(self.folder)
        return self.hub, self.revision

    @property
    def version(self) -> str:
        """The name of the weights, and the beginning of their revision."""
        name, revision = self._identity
        return f"{name.rsplit('/', 1)[-1]}@{revision[:12]}"

    @property
    def settings(self) -> dict[str, Any]:
        """The weights with their full revision, and the data type."""
        name, revision = self._identity
        return {"weights": name, "revision": revision, "dtype": self._device_and_dtype()[1]}

    def _device_and_dtype(self) -> tuple[str, str]:
        """Return device and data type with "auto" resolved."""
        device = self.resolved_device
        dtype = self.dtype
        if dtype == "auto":
            # Half precision is slow or missing on CPUs.
            dtype = "float32" if device == "cpu" else self.precision

        return device, dtype

    def check(self) -> None:
        """Check that the weights lie in a folder or in the hub's cache, or that the hub can be reached.

        Raises:
            FileNotFoundError: they do not, and it cannot.
        """
        if self.folder is not None:
            names = [path.name for path in self.folder.iterdir()]
            if not any(name.endswith(_WEIGHT_SUFFIXES) for name in names):
                raise self._unavailable(f"{self.folder} holds no weights")
            return

        import huggingface_hub

        for name in _WEIGHT_FILES:
            path = huggingface_hub.try_to_load_from_cache(self.hub, name, revision=self.revision)
            if isinstance(path, str):
                return

        try:
            huggingface_hub.HfApi().model_info(self.hub, revision=self.revision, timeout=_HUB_TIMEOUT)
        except Exception as error:  # the hub's own errors, and those of the library under it
            raise self._unavailable(error) from error

    def _unavailable(self, reason: object) -> FileNotFoundError:
        """Return the error for weights that can't be loaded."""
        name = self.hub.rsplit("/", 1)[-1]
        line = (str(reason).splitlines() or [type(reason).__name__])[0]
        return FileNotFoundError(
            f"The weights {self._identity[0]} can't be loaded ({line}): fetch them with `hf download "
            f"{self.hub} --revision {self.revision}` on a machine that is online, or set {WEIGHTS} to a "
            f"folder that holds them as {name}."
        )

    def _load(self) -> tuple[Any, Any]:
        import torch
        import transformers

        from monkeylib.checkpoints.weight_files import explain_broken

        device, dtype = self._device_and_dtype()
        location = {"pretrained_model_name_or_path": str(self.folder or self.hub)}

        # Only the hub has revisions.
        if not self.folder:
            location["revision"] = self.revision

        network_class = getattr(transformers, self.network)
        processor_class = getattr(transformers, self.processor)
        try:
            with explain_broken(location["pretrained_model_name_or_path"]):
                network = network_class.from_pretrained(**location, dtype=getattr(torch, dtype))
                processor = processor_class.from_pretrained(**location)
        except OSError as error:
            raise self._unavailable(error) from error

        return network.to(device).eval(), processor
