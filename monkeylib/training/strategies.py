"""Lightning strategies: one device, DDP, or FSDP that shards block by block."""

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


def build_strategy(name: str, world_size: int) -> Strategy:
    """Return Lightning's strategy for several devices: FSDP ("fsdp"), or else DDP."""
    # NCCL connects GPUs, Gloo processes on CPUs.
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if name == "fsdp":
        return ShardedStrategy(
            data_parallel_size=world_size, tensor_parallel_size=1, process_group_backend=backend
        )
    return DDPStrategy(process_group_backend=backend, gradient_as_bucket_view=True)


def sharded_blocks(model: MonkeyForConditionalGeneration) -> list[torch.nn.Module]:
    """Return the modules that FSDP shards each on its own, the inner ones first.

    They are those that transformers does not split over devices: the blocks of the ViT and of the language
    model, and the resampler.
    """
    names = {*model._no_split_modules, *(model.language_model._no_split_modules or ())}
    return [module for module in reversed(list(model.modules())) if type(module).__name__ in names]


def shard_model(model: MonkeyForConditionalGeneration, mesh: DeviceMesh) -> None:
    """Shard parameters, gradients and optimiser states over a mesh: block by block, then the rest."""
    # A block is gathered while it runs, and only then.
    for block in sharded_blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def gather_state_dict(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return all weights of a sharded model on the CPU of the first process, and nothing elsewhere.

    Every process has to call this.
    """
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


class ShardedStrategy(ModelParallelStrategy):
    """FSDP whose checkpoints, folders with a file of each process, appear in one move.

    A folder cannot take another one's place. So the previous checkpoint is moved aside, and removed when the
    next one is there. Between the two moves there is none: `restore_checkpoint` puts the previous one back
    if a run was killed then.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write beside the destination, and move the folder there when every process is done."""
        # All processes write into the folder that the first one names.
        path = Path(self.broadcast(filepath))
        partial = path.with_name(f".{path.name}.partial")
        super().save_checkpoint(checkpoint, partial, storage_options)
        self.barrier()

        if self.is_global_zero:
            # A folder cannot replace another one, so the previous checkpoint steps aside first.
            if path.exists():
                shutil.rmtree(_previous(path), ignore_errors=True)
                os.replace(path, _previous(path))
            os.replace(partial, path)
            shutil.rmtree(_previous(path), ignore_errors=True)

        self.barrier()


def restore_checkpoint(path: Path) -> None:
    """Put a sharded checkpoint back that was moved aside for one which a killed run did not finish."""
    if path.exists():
        return
    # There may be none, or another process has moved it.
    with contextlib.suppress(FileNotFoundError):
        os.replace(_previous(path), path)


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")
