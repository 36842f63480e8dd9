"""Token ids and labels of conversations about images, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monkeylib.prompts import IGNORE_INDEX, PromptLayout


@dataclass(frozen=True)
class Encoded:
    """One conversation: `ids`, `labels` and `turns` are `[T]`; `turns` numbers the answers, -1
    elsewhere."""

    ids: Tensor
    labels: Tensor
    turns: Tensor


def encode(
    layout: PromptLayout,
    images: Sequence[int],
    turns: Sequence[tuple[str, str]],
    max_length: int,
) -> Encoded:
    """Return a conversation as tensors.

    Args, Raises: as `PromptLayout.encode_conversation`.
    """
    conversation = layout.encode_conversation(images, turns, max_length)
    return Encoded(
        ids=torch.tensor(conversation.input_ids),
        labels=torch.tensor(conversation.labels),
        turns=torch.tensor(conversation.turns),
    )


def encode_as_released(
    prompt: Sequence[int], answer: Sequence[int], end: int, max_length: int
) -> dict[str, Tensor]:
    """One row exactly as the released fine-tuning builds it, to reproduce its numbers.

    It differs from `encode` where text is too long or holds the end-of-text token: what does not fit is cut,
    the answer and its end silently; every row is padded to `max_length` with the end-of-text token; and such
    a token inside the text is not attended.

    Returns:
        `input_ids`, `labels`, `attention_mask`, each `[max_length]`.
    """
    said = [*prompt, *answer]
    fill = max(0, max_length - len(said) - 1)
    ids = [*said, end, *[end] * fill][:max_length]
    labels = [*[IGNORE_INDEX] * len(prompt), *answer, end, *[IGNORE_INDEX] * fill][:max_length]
    mask = [*(int(token != end) for token in said), 1, *[0] * fill][:max_length]
    return {
        "input_ids": torch.tensor(ids),
        "labels": torch.tensor(labels),
        "attention_mask": torch.tensor(mask),
    }


def pad(rows: Sequence[Encoded], pad_id: int) -> dict[str, Tensor]:
    """Right-padded `input_ids`, `attention_mask`, `labels` and `turns`, each `[B, T]`."""

    def stack(tensors: list[Tensor], fill: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=fill)

    return {
        "input_ids": stack([r.ids for r in rows], pad_id),
        "attention_mask": stack([torch.ones_like(r.ids) for r in rows], 0),
        "labels": stack([r.labels for r in rows], IGNORE_INDEX),
        "turns": stack([r.turns for r in rows], -1),
    }


def pack(rows: Sequence[Encoded]) -> dict[str, Tensor]:
    """All rows in one: `input_ids`, `labels`, `turns` and `position_ids`, each `[1, T]`.

    Positions start anew with each row. Without an attention mask, transformers takes that as the border
    across which no token sees another.
    """
    firsts = torch.tensor([0, *(int(row.turns.max()) + 1 for row in rows)]).cumsum(0)
    turns = [torch.where(r.turns >= 0, r.turns + first, -1) for r, first in zip(rows, firsts, strict=False)]
    return {
        "input_ids": torch.cat([row.ids for row in rows])[None],
        "labels": torch.cat([row.labels for row in rows])[None],
        "turns": torch.cat(turns)[None],
        "position_ids": torch.cat([torch.arange(len(row.ids)) for row in rows])[None],
    }
