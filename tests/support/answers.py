"""Comparisons of answers that hold for any weights: by tokens and their log-probabilities.

What an untrained model says is no ground for a comparison: two answers may have the same text by chance.
"""

from collections.abc import Sequence
from itertools import combinations

import pytest

from monkeylib.model.answers import Answer


def assert_same(answers: Sequence[Answer], expected: Sequence[Answer]) -> None:
    """Check that answers have the texts, tokens and (but for rounding) log-probabilities of other ones."""
    for answer, other in zip(answers, expected, strict=True):
        assert answer.text == other.text and answer.ended_by == other.ended_by
        assert answer.token_ids == other.token_ids
        assert answer.token_log_probabilities == pytest.approx(other.token_log_probabilities, abs=1e-4)


def assert_distinct(answers: Sequence[Answer]) -> None:
    """Check that no two answers are those to one prompt: some token is not equally probable in both."""
    for answer, other in combinations(answers, 2):
        close = pytest.approx(other.token_log_probabilities, abs=1e-3)
        assert answer.token_ids != other.token_ids or answer.token_log_probabilities != close
