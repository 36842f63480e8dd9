"""How a run is spread over devices: one, DDP, or FSDP that shards block by block."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from monkeylib.model import MonkeyForConditionalGeneration


class Sharded(ModelParallelStrategy):
    """FSDP. Its checkpoints are folders with a file of each process, which appear in one move.

    A folder cannot take another one's place, so the earlier checkpoint makes way and goes when the next one
    is there. Between the two moves there is none: `restore` puts the earlier one back if a run was killed
    then.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write beside the place, and move there when every process is done."""
        path = Path(self.broadcast(filepath))
        unfinished = path.with_name(f".{path.name}.unfinished")
        super().save_checkpoint(checkpoint, unfinished, storage_options)
        self.barrier()
        if self.is_global_zero:
            if path.exists():
                shutil.rmtree(_earlier(path), ignore_errors=True)
                os.replace(path, _earlier(path))
            os.replace(unfinished, path)
            shutil.rmtree(_earlier(path), ignore_errors=True)
        self.barrier()


def restore(path: Path) -> None:
    """Put a sharded checkpoint back that had made way for one which a killed run did not move into place."""
    if not path.exists():
        with contextlib.suppress(FileNotFoundError):  # there is none, or another process has moved it
            os.replace(_earlier(path), path)


def _earlier(path: Path) -> Path:
    return path.with_name(f".{path.name}.earlier")


def build(name: str, devices: int) -> str | Strategy:
    """Lightning's strategy of that name ("auto", "ddp" or "fsdp") for so many devices."""
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if name == "fsdp":
        return Sharded(data_parallel_size=devices, tensor_parallel_size=1, process_group_backend=backend)
    if name == "ddp" or devices > 1:
        return DDPStrategy(process_group_backend=backend, gradient_as_bucket_view=True)
    return "auto"


def shard(model: MonkeyForConditionalGeneration, mesh: DeviceMesh) -> None:
    """Shard parameters, gradients and optimiser states over a mesh: each block of the ViT and of the language
    model on its own, then the rest.

    The blocks are the modules that transformers would not split over devices.
    """
    wrapped = {*model._no_split_modules, *(model.language_model._no_split_modules or ())}
    for module in reversed(list(model.modules())):  # from the inside out
        if type(module).__name__ in wrapped:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All weights of a sharded model on the CPU of the first process; nothing elsewhere. Every process has to
    call it."""
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
