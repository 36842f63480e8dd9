"""The processes that answer a benchmark together: one, or as many as torchrun, Lightning or another launcher
of torch.distributed has started."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

T = TypeVar("T")

_LONGEST_WAIT = timedelta(days=7)  # one process may be done days before another
_ROW = 8  # batches that a process answers one after the other, since they may share an image
_ROUNDS = 4  # how often each process should get such a row at least, so that none has much more to do


@dataclass(frozen=True)
class Processes:
    """Which process this is of how many. They only wait for each other, on the CPU, whatever the model runs
    on; `group` is what they wait in."""

    rank: int = 0
    count: int = 1
    group: Any = None

    @property
    def first(self) -> bool:
        """Whether this process does what one of them has to do."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when every process has come here.

        Raises:
            RuntimeError: a process has ended before.
        """
        if self.count > 1:
            distributed.monitored_barrier(self.group, timeout=_LONGEST_WAIT)

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's part of the items: short rows of them, dealt in turn."""
        row = max(1, min(_ROW, len(items) // (_ROUNDS * self.count)))
        return [item for place, item in enumerate(items) if place // row % self.count == self.rank]


_joined: tuple[Any, Processes] | None = (
    None  # in which process group of torch.distributed, and what came of it
)


def join() -> Processes:
    """The processes that this one was started with.

    A process group that exists is taken, of any backend; else one is opened if the environment is that of
    torchrun. Every process has to call this.
    """
    global _joined
    if not distributed.is_available():
        return Processes()
    if not distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "RANK" not in os.environ:
            return Processes()
        distributed.init_process_group("gloo", timeout=_LONGEST_WAIT)
    world = distributed.group.WORLD
    if _joined is None or _joined[0] is not world:
        own = distributed.new_group(backend="gloo", timeout=_LONGEST_WAIT)
        _joined = world, Processes(distributed.get_rank(), distributed.get_world_size(), own)
    return _joined[1]


def device() -> str:
    """Where this process's model should be: a GPU of its own where the machine has some, else the CPU."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
