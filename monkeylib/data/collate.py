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
        image_ids: the ids of the image span(s) that open the conversation.

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
