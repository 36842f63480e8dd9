"""Processes that share the work on a benchmark: one, or those that torchrun, Lightning or another launcher of
torch.distributed has started."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from monkeylib import errors

T = TypeVar("T")

_TIMEOUT = timedelta(days=7)  # one process may be ready days before another
_RUN_LENGTH = 8  # consecutive batches of one process at most, since they may share an image
_MIN_RUNS = 4  # runs of each process at least, so that none has much more to do than another


@dataclass(frozen=True)
class DistributedContext:
    """This process among those that share the work.

    The processes only wait for each other, on the CPU, whatever device their models run on.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes.
        group: the gloo process group in which they wait; None for one process.
    """

    rank: int = 0
    world_size: int = 1
    group: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that does work needed only once."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process has reached this call.

        Raises:
            RuntimeError: a process has ended before it.
        """
        if self.world_size > 1:
            distributed.monitored_barrier(self.group, timeout=_TIMEOUT)

    def broadcast(self, value: T) -> T:
        """Return the main process's value in every process; each has to call this."""
        if self.world_size == 1:
            return value

        values = [value]
        distributed.broadcast_object_list(values, src=0, group=self.group, device=torch.device("cpu"))
        return values[0]

    def run_on_main(self, function: Callable[[], T]) -> T | None:
        """Call a function in the main process while the others wait.

        Returns:
            What the function returns; None in the other processes.

        Raises:
            ValueError, OSError: from the function, in the main process.
            SystemExit: in the other processes, silently, if the function raised one of them.
        """
        return errors.run_on_main(function, self.is_main, self.broadcast)

    def shard(self, items: Sequence[T]) -> list[T]:
        """Return this process's items: short runs of consecutive ones, dealt to the processes in turn."""
        # Shorter runs for few items, so that every process gets some.
        run_length = max(1, min(_RUN_LENGTH, len(items) // (_MIN_RUNS * self.world_size)))
        return [
            item for index, item in enumerate(items) if index // run_length % self.world_size == self.rank
        ]


# The process group of torch.distributed that was joined last, and the context made from it.
_joined: tuple[Any, DistributedContext] | None = None


def join_processes() -> DistributedContext:
    """Return the context of the processes that this one was started with; every process has to call this.

    An existing process group is used, whatever its backend; otherwise one is opened if the environment is
    that of torchrun.
    """
    global _joined
    if not distributed.is_available():
        return DistributedContext()

    if not distributed.is_initialized():
        # Without torchrun's variables, this process works alone.
        if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "RANK" not in os.environ:
            return DistributedContext()
        distributed.init_process_group("gloo", timeout=_TIMEOUT)

    # Monitored barriers need gloo, and opening a group is collective: it is done once for each default group.
    default_group = distributed.group.WORLD
    if _joined is None or _joined[0] is not default_group:
        group = distributed.new_group(backend="gloo", timeout=_TIMEOUT)
        context = DistributedContext(distributed.get_rank(), distributed.get_world_size(), group)
        _joined = default_group, context

    return _joined[1]


def local_device() -> str:
    """Return the device of this process's model: one of the machine's GPUs, else the CPU."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
