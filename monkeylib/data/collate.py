"""Conversations as tensors, and batches of them: padded, or packed into one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monkeylib.prompts import IGNORE_INDEX, PromptLayout


@dataclass(frozen=True)
class Encoded:
    """A conversation of T tokens.

    Attributes:
        ids: token ids `[T]`.
        labels: token ids of the answers, `IGNORE_INDEX` elsewhere, `[T]`.
        turns: number of the answer that a token belongs to, -1 elsewhere, `[T]`.
    """

    ids: Tensor
    labels: Tensor
    turns: Tensor


def encode(
    layout: PromptLayout,
    images: Sequence[int],
    turns: Sequence[tuple[str, str]],
    max_length: int,
) -> Encoded:
    """Return a conversation as tensors; see `PromptLayout.encode_conversation`."""
    conversation = layout.encode_conversation(images, turns, max_length)
    return Encoded(
        ids=torch.tensor(conversation.input_ids),
        labels=torch.tensor(conversation.labels),
        turns=torch.tensor(conversation.turns),
    )


def pad(examples: Sequence[Encoded], pad_id: int) -> dict[str, Tensor]:
    """Return a batch padded on the right.

    Returns:
        `input_ids`, `attention_mask`, `labels` and `turns`, each `[B, T]`.
    """

    def stack(tensors: list[Tensor], fill: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=fill)

    return {
        "input_ids": stack([example.ids for example in examples], pad_id),
        "attention_mask": stack([torch.ones_like(example.ids) for example in examples], 0),
        "labels": stack([example.labels for example in examples], IGNORE_INDEX),
        "turns": stack([example.turns for example in examples], -1),
    }


def pack(examples: Sequence[Encoded]) -> dict[str, Tensor]:
    """Return all examples in one sequence.

    Positions start anew with each example. Without an attention mask, transformers takes that as the border
    across which no token attends to another.

    Returns:
        `input_ids`, `labels`, `turns` and `position_ids`, each `[1, T]`.
    """
    # Turns are numbered over the whole sequence.
    counts = [int(example.turns.max()) + 1 for example in examples]
    offsets = torch.tensor([0, *counts]).cumsum(0)[:-1]
    turns = [
        torch.where(example.turns >= 0, example.turns + offset, -1)
        for example, offset in zip(examples, offsets, strict=True)
    ]

    return {
        "input_ids": torch.cat([example.ids for example in examples])[None],
        "labels": torch.cat([example.labels for example in examples])[None],
        "turns": torch.cat(turns)[None],
        "position_ids": torch.cat([torch.arange(len(example.ids)) for example in examples])[None],
    }
