"""Random weights that are the same on every machine, and models that certainly say something."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@contextmanager
def numpy_numbers(seed: int = 0) -> Iterator[None]:
    """Let what is built within draw its random numbers from numpy.

    torch's own differ from CPU to CPU, with the width of its vector instructions.
    """
    numbers = np.random.default_rng(seed)

    def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0, **_: Any) -> Tensor:
        return _copy(self, numbers.normal(mean, std, self.shape))

    def uniform_(self: Tensor, low: float = 0.0, high: float = 1.0, **_: Any) -> Tensor:
        return _copy(self, numbers.uniform(low, high, self.shape))

    def randn(*size: Any, **options: Any) -> Tensor:
        return torch.empty(*size, **options).normal_()

    def randn_like(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor).normal_()

    with (
        patch.multiple(Tensor, normal_=normal_, uniform_=uniform_),
        patch.multiple(torch, randn=randn, randn_like=randn_like),
    ):
        yield


@torch.no_grad()
def say_visible_tokens_alone(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make sure that the most probable token is never a special one, nor white space.

    The row of each of them in the output layer becomes a mean of some visible tokens' rows, so its logit is
    never the largest. So no greedy answer ends before its limit, and each of its tokens shows in its text.
    """
    head = model.get_output_embeddings().weight
    texts = [tokenizer.decode([token], skip_special_tokens=True) for token in range(len(head))]
    visible = [token for token, text in enumerate(texts) if text.strip()]

    for token in sorted(set(range(len(head))) - set(visible)):
        # Other ones for each token, since layers may be tied: <img> and </img> stay different.
        some = np.random.default_rng(token).choice(visible, 8, replace=False)
        head[token] = head[torch.from_numpy(some)].mean(0)


@torch.no_grad()
def _copy(tensor: Tensor, values: Any) -> Tensor:
    return tensor.copy_(torch.from_numpy(np.asarray(values)))
