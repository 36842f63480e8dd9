"""How a run is spread over devices: one, DDP, or FSDP that shards block by block."""

from __future__ import annotations

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
    """FSDP. Its checkpoints are folders with a file of each process, which appear in one move."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write beside the place, and move there when every process is done."""
        path = Path(self.broadcast(filepath))
        unfinished = path.with_name(f".{path.name}.unfinished")
        super().save_checkpoint(checkpoint, unfinished, storage_options)
        self.barrier()
        if self.is_global_zero:
            shutil.rmtree(path, ignore_errors=True)
            os.replace(unfinished, path)
        self.barrier()


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
