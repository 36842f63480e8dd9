"""Which tokens of a conversation are learned."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from monkeylib.label_mask import IGNORE_INDEX, mask_prompt, mask_tokens

ids = st.lists(st.integers(0, 1000), max_size=9)


@given(ids)
def test_masked_tokens_have_no_label(tokens):
    assert mask_tokens(tokens) == [IGNORE_INDEX] * len(tokens)


@given(ids, ids)
def test_a_turn_learns_its_answer_alone(prompt, answer):
    labels = mask_prompt(prompt, answer)
    assert len(labels) == len(prompt) + len(answer)
    assert set(labels[: len(prompt)]) <= {IGNORE_INDEX} and labels[len(prompt) :] == answer


def test_cross_entropy_skips_masked_tokens():
    logits = torch.randn(4, 7)
    labels = torch.tensor(mask_prompt([1, 2], [3, 4]))
    assert torch.equal(F.cross_entropy(logits, labels), F.cross_entropy(logits[2:], labels[2:]))
