"""The encoding of the released fine-tuning code, to compare with."""

import torch

from monkeylib.label_mask import IGNORE_INDEX


def encode_as_released(prompt, answer, end, max_length):
    """Return `input_ids`, `labels` and `attention_mask` of the released code, each `[max_length]`.

    They differ from the library's where text is too long or holds the end-of-text token: what does not fit is
    cut, even the answer and its end; every example is padded to `max_length` with the end-of-text token; and
    such a token inside the text is not attended to.
    """
    text = [*prompt, *answer]
    padding = max(0, max_length - len(text) - 1)
    ids = [*text, end, *[end] * padding][:max_length]
    labels = [*[IGNORE_INDEX] * len(prompt), *answer, end, *[IGNORE_INDEX] * padding][:max_length]
    mask = [*(int(token != end) for token in text), 1, *[0] * padding][:max_length]
    return {
        "input_ids": torch.tensor(ids),
        "labels": torch.tensor(labels),
        "attention_mask": torch.tensor(mask),
    }
