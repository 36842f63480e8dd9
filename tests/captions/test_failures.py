"""Kinds of failures, and which the next run tries again."""

import pytest
import torch

from monkeylib.captions.annotations import Failure
from monkeylib.captions.cached_model import ModelFailed, TimeLimitExceeded, as_failure
from monkeylib.captions.composers.budget import BudgetExhausted
from monkeylib.captions.composers.chat_client import AnswerRejected, ChatFailed
from monkeylib.captions.failures import failure_kind
from monkeylib.images import ImageError, MissingImageError


@pytest.mark.parametrize(
    ("error", "kind", "is_retried"),
    [
        (ImageError("truncated", "cut off"), "truncated", False),
        (ImageError("too-large", "a bomb"), "too-large", False),
        (MissingImageError("missing", "gone"), "missing", False),
        (RuntimeError("too dark"), "raised", False),
        (ValueError("two boxes"), "raised", False),
        (ModelFailed("RuntimeError: too dark"), "raised", False),
        (ModelFailed("MemoryError: ", "unavailable"), "unavailable", True),
        (TimeLimitExceeded("no result"), "timeout", False),
        (AnswerRejected("a refusal"), "rejected", False),
        (ChatFailed("status 400", "refused"), "refused", False),
        (ChatFailed("cut off", "no-answer"), "no-answer", True),
        (ChatFailed("status 500"), "unavailable", True),
        (BudgetExhausted("used up"), "unavailable", True),
        (MemoryError(), "unavailable", True),
        (torch.OutOfMemoryError("of the GPU"), "unavailable", True),
        (ConnectionResetError(), "unavailable", True),
    ],
    ids=repr,
)
def test_kind_of_an_error(error, kind, is_retried):
    assert failure_kind(error) == kind
    assert as_failure("stage", error).is_retried is is_retried


def test_failure_of_an_earlier_version_is_settled():
    assert not Failure(stage="read", error="OSError: no").is_retried


def test_no_failure_holds_a_secret():
    failure = as_failure("chat", RuntimeError("no host at http://name:hunter2@models.example/v1"))
    assert failure.error == "RuntimeError: no host at http://***@models.example/v1"
