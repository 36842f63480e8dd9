"""Failures of images in records: their kinds, and which of them the next run tries again.

A failure is *settled* if the same model would fail on the same image again: the image cannot be read, the model
raised on it, an answer was refused every time. A shard with settled failures is finished. Other failures come from
outside (an endpoint that is down, a budget that is used up, an answer that was cut off): the next run tries
again.
"""

from typing import Literal

from PIL import Image, UnidentifiedImageError

FailureKind = Literal[
    # The image: no file, a file that may not be read, of no bytes, cut off, of no known format, too large,
    # or anything else.
    "missing",
    "permission",
    "empty",
    "truncated",
    "unsupported",
    "too_large",
    "unreadable",
    # The model: it raised, took too long, or ended its process too often.
    "raised",
    "timeout",
    "crashed",
    # The endpoint: it refused the request; its answers were no captions.
    "refused",
    "rejected",
    # What may succeed at another time: no answer, no connection, no memory, no budget.
    "no_answer",
    "unavailable",
]

RETRIED: frozenset[FailureKind] = frozenset({"no_answer", "unavailable"})

_KINDS: dict[type[BaseException], FailureKind] = {
    FileNotFoundError: "missing",
    PermissionError: "permission",
    UnidentifiedImageError: "unsupported",
    Image.DecompressionBombError: "too_large",
}


class ModelError(RuntimeError):
    """An error whose raiser knows its kind.

    Attributes:
        kind: kind of the failure that it becomes.
    """

    kind: FailureKind = "raised"


class StageFailed(ValueError):
    """A stage failed on every image so far, so the run was stopped; the message says what to do."""


def image_failure_kind(error: BaseException, size: int | None = None) -> FailureKind:
    """Return the kind of an error that reading an image raised.

    Args:
        error: the error; its cause counts first, since it is the more precise one.
        size: bytes of the file, where they are known.
    """
    if size == 0:
        return "empty"

    for each in (error.__cause__, error):
        for error_type, kind in _KINDS.items():
            if isinstance(each, error_type):
                return kind

    # Pillow has no type of its own for a file that ends early.
    text = f"{error} {error.__cause__}".lower()
    return "truncated" if "truncated" in text or "unexpected end" in text else "unreadable"


def model_failure_kind(error: BaseException) -> FailureKind:
    """Return the kind of an error that a model raised."""
    if isinstance(error, ModelError):
        return error.kind

    # Names instead of types: torch's error is not imported here.
    names = {error_type.__name__ for error_type in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError", "ConnectionError"}:
        return "unavailable"
    return "raised"
