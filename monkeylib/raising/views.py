"""Which view is which tile, while the vision tower of a raised model runs.

The model takes the numbers of its views as an argument `tile_index`; the tower, whose code is that of
transformers, does not. Between the two, `ViewState` holds them:

1. The model puts the numbers of a call on a stack (`use`).
2. When the tower begins, it compares them with the rows that it reads, and plans which adapter meets which
   rows (`begin`). When it ends, the plan is taken away.
3. Gradient checkpointing runs parts of the tower again in the backward pass, when another call may have
   begun and ended. `CheckpointedPart` gives these parts the plan under which they ran the first time.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import torch

from monkeylib.raising.grids import GLOBAL_VIEW


class Part(NamedTuple):
    """Views that adapters are applied to in one product.

    Fields:
        views: a slice of the tower's views.
        adapters: number of the adapter of each view, or one number for all of them.
    """

    views: slice
    adapters: list[int]


class Plan(NamedTuple):
    """Views of one call of the tower, and the parts of them that meet adapters."""

    view_count: int
    parts: list[Part]


def plan_parts(numbers: Sequence[int]) -> list[Part]:
    """Split views into as few parts as possible, each a slice of them: nothing is copied or sorted.

    Either neighbours form a part, whatever their adapters, or the views of one adapter, if they are equally
    far from each other. The first is best for one image, the second for many images of one grid.

    Args:
        numbers: adapter of each view, `GLOBAL_VIEW` for none.

    >>> plan_parts([0, 1, -1])
    [Part(views=slice(0, 2, 1), adapters=[0, 1])]
    >>> plan_parts([0, 1, -1, 0, 1, -1, 0, 1, -1])
    [Part(views=slice(0, 7, 3), adapters=[0]), Part(views=slice(1, 8, 3), adapters=[1])]
    """
    neighbours = _neighbours(numbers)
    spaced = [part for number in sorted(set(numbers) - {GLOBAL_VIEW}) for part in _spaced(numbers, number)]
    return neighbours if len(neighbours) <= len(spaced) else spaced


def _neighbours(numbers: Sequence[int]) -> list[Part]:
    parts = []
    start = 0
    for is_global, group in groupby(numbers, key=lambda number: number == GLOBAL_VIEW):
        adapters = list(group)
        end = start + len(adapters)
        if not is_global:
            is_one = len(set(adapters)) == 1
            parts.append(Part(slice(start, end, 1), adapters[:1] if is_one else adapters))
        start = end
    return parts


def _spaced(numbers: Sequence[int], number: int) -> list[Part]:
    places = [place for place, other in enumerate(numbers) if other == number]

    parts = []
    while places:
        step = places[1] - places[0] if len(places) > 1 else 1
        count = 1
        while count < len(places) and places[count] == places[0] + count * step:
            count += 1
        parts.append(Part(slice(places[0], places[count - 1] + 1, step), [number]))
        places = places[count:]
    return parts


class ViewState:
    """Numbers of the views that a model is about to read, for each thread its own.

    A copy of a model has a state of its own.
    """

    def __init__(self, adapter_of_tile: Sequence[int]) -> None:
        # The adapter of each tile number: the same one for all where they share it, none without adapters.
        self.adapter_of_tile = list(adapter_of_tile)
        self._local = threading.local()

    def __deepcopy__(self, memo: dict) -> "ViewState":
        return ViewState(self.adapter_of_tile)

    def __reduce__(self) -> tuple:
        return ViewState, (self.adapter_of_tile,)

    @property
    def _stack(self) -> list[list[int] | None]:
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        return self._local.stack

    @property
    def tile_index(self) -> list[int] | None:
        """Numbers of the views of the current call of the model, None without any."""
        return self._stack[-1] if self._stack else None

    @property
    def plan(self) -> Plan | None:
        """What the running tower has planned; None outside of it."""
        return getattr(self._local, "plan", None)

    def push(self, tile_index: Any) -> None:
        """Begin a call with these numbers; without any, those of the call around it stay.

        Raises:
            ValueError: a number that no tile has.
        """
        self._stack.append(self.tile_index if tile_index is None else self._check(tile_index))

    def pop(self) -> None:
        """End a call."""
        if self._stack:
            self._stack.pop()

    @contextlib.contextmanager
    def use(self, tile_index: Any) -> Iterator[None]:
        """Give the tower these numbers while a block runs."""
        self.push(tile_index)
        try:
            yield
        finally:
            self.pop()

    def _check(self, tile_index: Any) -> list[int]:
        # One synchronisation with the device a call.
        numbers = tile_index.tolist() if isinstance(tile_index, torch.Tensor) else list(tile_index)
        largest = len(self.adapter_of_tile) - 1
        for number in numbers:
            if not isinstance(number, int) or not GLOBAL_VIEW <= number <= largest:
                raise ValueError(
                    f"tile_index holds {number!r}: expected one whole number a view, from 0 to {largest} for "
                    f"the tiles of this model and {GLOBAL_VIEW} for a global view"
                )
        return numbers

    def begin(self, view_count: int) -> None:
        """Plan the adapters of a tower that begins.

        Args:
            view_count: rows that the tower reads.

        Raises:
            ValueError: not as many numbers as rows.
        """
        numbers = self.tile_index
        if numbers is None:
            self._local.plan = Plan(view_count, [])
            return

        if len(numbers) != view_count:
            raise ValueError(
                f"tile_index names {len(numbers)} views, the vision tower reads {view_count}: prepare images "
                "and prompt with one call of the raised processor (views that are 0 everywhere are left out "
                "by Idefics)"
            )
        adapters = [GLOBAL_VIEW if number < 0 else self.adapter_of_tile[number] for number in numbers]
        self._local.plan = Plan(view_count, plan_parts(adapters))

    def end(self) -> None:
        """Take the plan away, since the tower has ended."""
        self._local.plan = None

    @contextlib.contextmanager
    def resume(self, plan: Plan | None) -> Iterator[None]:
        """Run a part of the tower under an earlier plan."""
        current = self.plan
        self._local.plan = plan
        try:
            yield
        finally:
            self._local.plan = current


class CheckpointedPart:
    """Gradient checkpointing of a part of the tower that remembers the plan of its first run.

    Args:
        checkpoint: what transformers checkpoints with.
        state: of the model.
    """

    def __init__(self, checkpoint: Callable, state: ViewState) -> None:
        self.checkpoint = checkpoint
        self.state = state

    def __call__(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        """Checkpoint a function with the plan of now."""
        return self.checkpoint(partial(self._run, self.state.plan, function), *args, **kwargs)

    def _run(self, plan: Plan | None, function: Callable, *args: Any, **kwargs: Any) -> Any:
        with self.state.resume(plan):
            return function(*args, **kwargs)
