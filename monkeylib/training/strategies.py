"""Lightning strategies: one device, DDP, or FSDP that shards block by block."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from monkeylib import digests, resources
from monkeylib.errors import is_out_of_memory, leave_report_to_main
from monkeylib.model import MonkeyForConditionalGeneration

# SHA-256 of each file of a sharded checkpoint.
DIGESTS_FILE = "digests.json"

# What a sharded checkpoint consists of: the shards of each process, and what the first one writes.
SHARD_FILES = ("__*.distcp", ".metadata", "meta.pt", DIGESTS_FILE)

# Of the folders beside a sharded checkpoint while it is written: the new one, and the one that it replaces.
LEFTOVER_ENDS = PARTIAL, PREVIOUS = "partial", "previous"


def build_strategy(name: str, world_size: int) -> Strategy:
    """Return Lightning's strategy for several devices: FSDP ("fsdp"), or else DDP."""
    # NCCL connects GPUs, Gloo processes on CPUs.
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if name == "fsdp":
        return ShardedStrategy(
            data_parallel_size=world_size, tensor_parallel_size=1, process_group_backend=backend
        )
    return ReplicatedStrategy(process_group_backend=backend, gradient_as_bucket_view=True)


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


class _FailsTogether:
    """What a strategy of several processes adds: when one of them fails to write, all raise its error.

    Otherwise the others would wait for it.
    """

    @contextlib.contextmanager
    def fails_together(self) -> Iterator[None]:
        """Run a block in every process, and raise the first error to write, of any of them, in all.

        Raises:
            OSError: a process could not write.
            RuntimeError: a process of FSDP lacked memory.
        """
        problem = None

        try:
            yield
        except OSError as error:
            problem = error.strerror or str(error)
        # PyTorch wraps what its processes raised.
        except CheckpointException as error:
            cause = next(iter(error.failures.values()))[0]
            if is_out_of_memory(cause):
                raise cause from error
            problem = getattr(cause, "strerror", None) or str(cause)

        problems = [other for other in gather_objects(problem) if other is not None]
        if problems:
            raise OSError(problems[0])


def raise_together(error: Exception) -> NoReturn:
    """Raise an error that every process has met: the first one reports it, the others end silently."""
    if rank_zero_only.rank > 0:
        leave_report_to_main()
    raise error


def is_true_anywhere(value: bool, device: torch.device) -> bool:
    """Return whether a value is true in any process; every process has to call this.

    Args:
        value: this process's value.
        device: on which processes exchange values.
    """
    if not torch.distributed.is_initialized():
        return value
    count = torch.tensor(float(value), device=device)
    torch.distributed.all_reduce(count)
    return bool(count > 0)


def gather_objects(value: Any) -> list[Any]:
    """Return the values of all processes, in the order of their ranks; every process has to call this."""
    if not torch.distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


class ReplicatedStrategy(_FailsTogether, DDPStrategy):
    """DDP whose processes fail together when a checkpoint can't be written, and read the same one."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a file in the first process.

        Raises:
            OSError: it could not be written.
        """
        with self.fails_together():
            super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the file that the first process names, since it alone has checked it."""
        return super().load_checkpoint(self.broadcast(checkpoint_path), weights_only)


class ShardedStrategy(_FailsTogether, ModelParallelStrategy):
    """FSDP whose checkpoints, folders with a file of each process, appear in one move.

    A file `DIGESTS_FILE` in the folder tells what the others must hold.
    """

    def setup_environment(self) -> None:
        """Connect the processes, and prepare sharding where there is a module already."""
        if self.lightning_module is None:
            self._setup_distributed()
        else:
            super().setup_environment()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write beside the destination, and move the folder there when every process is done.

        Raises:
            OSError: a process could not write.
        """
        # All processes write into the folder that the first one names, and has emptied.
        partial = Path(filepath).with_name(f".{Path(filepath).name}.{PARTIAL}")
        with self.fails_together():
            if self.is_global_zero:
                _remove_shards(partial)
                partial.mkdir(parents=True, exist_ok=True)

        path, partial = self.broadcast((Path(filepath), partial))
        with self.fails_together():
            super().save_checkpoint(checkpoint, partial, storage_options)

        digests_of_files: dict[str, str] = {}
        with self.fails_together():
            own_files = list(partial.glob(f"__{self.global_rank}_*"))
            if self.is_global_zero:
                own_files += [partial / ".metadata", partial / "meta.pt"]
            for file in own_files:
                resources.sync(file)
                digests_of_files[file.name] = digests.file_digest(file)

        gathered = gather_objects(digests_of_files)
        with self.fails_together():
            if self.is_global_zero:
                all_digests = {name: digest for part in gathered for name, digest in part.items()}
                with resources.atomic_write(partial / DIGESTS_FILE, durable=True) as temporary:
                    temporary.write_text(json.dumps(all_digests, indent=1) + "\n", encoding="utf-8")
                _replace_folder(partial, path)


def _replace_folder(new: Path, path: Path) -> None:
    """Move a folder to a path, in place of a sharded checkpoint that may lie there.

    What else lies in that one's folder is moved into the new one.
    """
    # Only a step that is saved twice, before and after its validation, has one.
    previous = path.with_name(f".{path.name}.{PREVIOUS}")
    if path.exists():
        _move_rest(previous, path)
        os.replace(path, previous)

    os.replace(new, path)
    resources.sync(path.parent)
    _move_rest(previous, path)


def _move_rest(folder: Path, target: Path) -> None:
    """Remove a sharded checkpoint, and move what else lies in its folder into another one."""
    _remove_shards(folder)
    if folder.is_dir():
        for file in list(folder.iterdir()):
            os.replace(file, target / file.name)
        folder.rmdir()


def _remove_shards(folder: Path) -> None:
    """Remove a sharded checkpoint, if there is one, and its folder unless something else lies there."""
    if not folder.is_dir() or folder.is_symlink():
        return

    for pattern in SHARD_FILES:
        for file in folder.glob(pattern):
            file.unlink()
    with contextlib.suppress(OSError):  # not empty
        folder.rmdir()
