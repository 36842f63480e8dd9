"""Failures of images in records: their kinds, and which of them the next run tries again.

A failure is *settled* if the same model would fail on the same image again: the image cannot be read, the
model raised on it, its answers were rejected. A shard with settled failures is finished. Other failures come
from outside (an endpoint that is down, a budget that is used up, an answer that was cut off): the next run
tries again.
"""

from typing import Literal

from monkeylib.images import ErrorCode, ImageError

FailureKind = Literal[
    # The image.
    ErrorCode,
    # The model: it raised, took too long, or ended its process too often.
    "raised",
    "timeout",
    "crashed",
    # The endpoint: it refused the request, or its answers were no captions.
    "refused",
    "rejected",
    # What may succeed at another time: no answer, no connection, no memory, no budget.
    "no-answer",
    "unavailable",
]

RETRIED: frozenset[FailureKind] = frozenset({"no-answer", "unavailable"})


class ModelError(RuntimeError):
    """An error whose raiser knows its kind.

    Attributes:
        kind: kind of the failure that it becomes.
    """

    kind: FailureKind = "raised"


def failure_kind(error: BaseException) -> FailureKind:
    """Return the kind of the failure that an error becomes."""
    if isinstance(error, ImageError):
        return error.code
    if isinstance(error, ModelError):
        return error.kind

    # By name: torch's error is not imported here.
    names = {error_type.__name__ for error_type in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError", "ConnectionError", "TimeoutError"}:
        return "unavailable"
    return "raised"


class StageFailed(ValueError):
    """A stage failed on nearly everything, so the run was stopped; the message says what to do."""
