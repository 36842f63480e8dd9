"""Token ids and labels of conversations about images, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

IGNORE = -100


@dataclass(frozen=True)
class Encoded:
    """One conversation: `ids`, `labels` and `turns` are `[T]`; `turns` numbers the answers, -1
    elsewhere."""

    ids: Tensor
    labels: Tensor
    turns: Tensor


def encode(
    tokenizer: PreTrainedTokenizerBase,
    image_ids: Sequence[int],
    turns: Sequence[tuple[str, str]],
    max_length: int,
) -> Encoded:
    """Tokenise prompts and answers separately and label the answers, each with its end-of-text token.

    As in the released code: prompt and answer are tokenised apart, everything but the answer is masked, and
    the end of text is both attended and supervised. The release uses one turn; further turns follow the same
    rule. A turn that does not fit into `max_length` is left out whole, where the release cuts its answer
    silently.

    Args:
        image_ids: the ids that open the conversation: a processor's opening, and the image span(s).

    Raises:
        ValueError: not even the first turn fits.
    """
    ids, labels, numbers = list(image_ids), [IGNORE] * len(image_ids), [-1] * len(image_ids)
    for number, (prompt, answer) in enumerate(turns):
        asked = tokenizer(prompt, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        said = [
            *tokenizer(answer, add_special_tokens=False, split_special_tokens=True)["input_ids"],
            tokenizer.eos_token_id,
        ]
        if len(ids) + len(asked) + len(said) > max_length:
            if number == 0:
                raise ValueError(
                    f"The image and its first question need {len(ids) + len(asked) + len(said)} tokens "
                    f"but max_length is {max_length}: "
                    "raise max_length or shorten the answer."
                )
            break
        ids += asked + said
        labels += [IGNORE] * len(asked) + said
        numbers += [-1] * len(asked) + [number] * len(said)
    return Encoded(torch.tensor(ids), torch.tensor(labels), torch.tensor(numbers))


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
    labels = [*[IGNORE] * len(prompt), *answer, end, *[IGNORE] * fill][:max_length]
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
        "labels": stack([r.labels for r in rows], IGNORE),
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
