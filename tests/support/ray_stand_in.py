"""The part of Ray Data's interface that the pipeline calls, in one process, for machines without Ray.

As in Ray, rows and constructor arguments are copied between steps, a class is made once for each actor of its
pool, batches are columns of NumPy arrays, and rows come back in no promised order: here, backwards.
"""

import pickle
from types import SimpleNamespace

import numpy as np


class ActorPoolStrategy:
    """A pool between bounds."""

    def __init__(self, *, min_size, max_size, initial_size):
        assert 1 <= min_size <= initial_size <= max_size
        self.size, self.bounds = initial_size, (min_size, max_size)


class Dataset:
    """Rows, and the name, pool size, CPUs and GPUs of each step so far (`steps`)."""

    def __init__(self, rows, steps=()):
        self.rows, self.steps = rows, list(steps)

    def map_batches(
        self, fn, *, batch_size, batch_format, num_cpus, num_gpus=None, compute=None, fn_constructor_args=()
    ):
        assert batch_size == 1 and batch_format == "numpy"
        assert isinstance(fn, type) == (compute is not None), "classes run in pools, functions in tasks"

        size = compute.size if compute else 1
        copies = [pickle.loads(pickle.dumps(fn_constructor_args)) for _ in range(size)]
        actors = [fn(*arguments) for arguments in copies] if compute else [fn]
        rows = []
        for number, row in enumerate(self.rows):
            column = np.empty(1, dtype=object)
            column[:] = [pickle.loads(pickle.dumps(row["task"]))]
            batches = actors[number % size]({"task": column})
            for batch in [batches] if isinstance(batches, dict) else batches:
                assert set(batch) == {"task"} and all(isinstance(task, bytes) for task in batch["task"])
                rows += [{"task": task} for task in batch["task"]]

        name = fn.__name__
        return Dataset(rows, [*self.steps, (name, size, num_cpus, num_gpus)])

    def iter_rows(self):
        LAST.steps = self.steps
        yield from reversed(self.rows)


LAST = SimpleNamespace(steps=[])


def module(cpus=2.0, gpus=0.0):
    """Return a stand-in of the module `ray`, on a cluster of that many CPUs and GPUs."""

    def from_items(items, *, override_num_blocks):
        assert override_num_blocks == len(items), "a block for each shard, or one error would lose several"
        return Dataset(list(items))

    resources = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    return SimpleNamespace(
        is_initialized=lambda: True,
        cluster_resources=lambda: resources,
        data=SimpleNamespace(from_items=from_items, ActorPoolStrategy=ActorPoolStrategy),
    )
