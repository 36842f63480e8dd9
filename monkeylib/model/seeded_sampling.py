"""Samples of a seed: the same ones again, whatever else draws random numbers at the same time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import StoppingCriteria


@contextlib.contextmanager
def draw_from_seed(seed: int, settings: dict[str, Any]) -> Iterator[list[StoppingCriteria]]:
    """Draw the samples of a block from a seed.

    Args:
        seed: begins the random numbers.
        settings: of `generate`, to which what it calls before a token is drawn is added.

    Yields:
        What `generate` is to call once a token is drawn.
    """
    draws = _SeededDraws(seed)
    settings["logits_processor"] = [draws.begin, *settings.get("logits_processor", ())]
    try:
        yield [draws]
    finally:
        # Where the model failed in the middle.
        draws.end()


class _SeededDraws(StoppingCriteria):
    """Has torch draw the tokens of these samples from a generator of their own; it never ends a row.

    The generator is this thread's alone, and torch's own is not touched, so what other threads draw and what
    these samples are do not depend on each other.
    """

    def __init__(self, seed: int) -> None:
        self._draws = _OwnGenerator(seed)
        self._open = contextlib.ExitStack()

    def begin(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Begin to draw a token of each row, and return the scores `[B, vocabulary]` as they are."""
        self._open.enter_context(self._draws)
        return scores

    def __call__(self, input_ids: Tensor, scores: Any, **options: Any) -> Tensor:
        self.end()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def end(self) -> None:
        """Leave the draws that follow to torch's own generator."""
        self._open.close()


class _OwnGenerator(TorchFunctionMode):
    """Within its block, `torch.multinomial` draws from a generator that begins at a seed.

    It is for transformers, whose sampling takes no generator. As any mode of torch, it holds in the thread
    that enters it.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._generator: torch.Generator | None = None

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: Any = None
    ) -> Any:
        options = options or {}
        if function is torch.multinomial:
            if self._generator is None:
                self._generator = torch.Generator(arguments[0].device).manual_seed(self._seed)
            options = {**options, "generator": self._generator}
        return function(*arguments, **options)
