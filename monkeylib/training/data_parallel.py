"""How devices share a batch: each gets its micro-batches, the same ones however often a run is resumed.

A batch of 8 on 2 devices, in micro-batches of 2:

    device 0   [0 1] [4 5]
    device 1   [2 3] [6 7]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from monkeylib.profiles import Profile


@dataclass(frozen=True)
class Shard:
    """Data-parallel shard: the part of each batch that one device gets, and in how many micro-batches.

    Fields:
        rank: number of the device.
        world_size: number of devices.
        accumulation: micro-batches of an optimiser step on each device.
    """

    rank: int = 0
    world_size: int = 1
    accumulation: int = 1

    def micro_batches(self, batch: list[Any]) -> list[list[Any]]:
        """Split a batch into `world_size x accumulation` micro-batches and return those of this device.

        A batch is sorted by length, and so all devices get examples of similar length at the same time. A
        micro-batch may be empty.
        """
        # Neighbours go to different devices at the same time: [device 0, device 1, device 0, ...].
        micro_batches = split_evenly(batch, self.world_size * self.accumulation)
        return micro_batches[self.rank :: self.world_size]


def split_evenly(examples: list[Any], count: int) -> list[list[Any]]:
    """Cut a list into `count` lists whose lengths differ by at most one."""
    edges = np.linspace(0, len(examples), count + 1).round().astype(int)
    return [examples[start:end] for start, end in zip(edges, edges[1:], strict=False)]


def accumulation_steps(profile: Profile, world_size: int) -> int:
    """Return the number of micro-batches of an optimiser step on each device:

        batch_size / (world_size * micro_batch_size)

    Raises:
        ValueError: the batch cannot be divided so.
    """
    training = profile.training
    if training.micro_batch_size is None:
        return 1

    examples_at_once = world_size * training.micro_batch_size
    if training.batch_size % examples_at_once:
        raise ValueError(
            f"a batch of {training.batch_size} examples cannot be divided over {world_size} devices with "
            f"micro-batches of {training.micro_batch_size}: choose batch_size = devices x micro_batch_size "
            "x a whole number"
        )

    return training.batch_size // examples_at_once
