"""What every metric takes, and the sentences by which it refuses anything else."""

from collections.abc import Mapping, Sequence
from typing import Any

Answers = Sequence[str] | str
Meta = Mapping[str, Any]


def check(prediction: str, answers: Answers) -> list[str]:
    """The answers as a list; a lone string is one answer.

    Raises:
        ValueError: the prediction or an answer isn't a string, or there is no answer.
    """
    if not isinstance(prediction, str):
        raise ValueError(
            f"A prediction must be a string: got {type(prediction).__name__} ({prediction!r:.60})."
        )
    listed = [answers] if isinstance(answers, str) else answers
    if not isinstance(listed, Sequence) or not listed:
        raise ValueError(f"An example needs a non-empty list of answers: got {answers!r:.60}.")
    for answer in listed:
        if not isinstance(answer, str):
            raise ValueError(f"An answer must be a string: got {type(answer).__name__} ({answer!r:.60}).")
    return list(listed)


def wanted(meta: Meta | None, key: str, why: str) -> Any:
    """An entry of an example's `meta` that a metric can't do without; `why` says what it is for.

    Raises:
        ValueError: it isn't there.
    """
    if not isinstance(meta, Mapping) or key not in meta:
        raise ValueError(f"This metric needs the entry {key!r} of each example's meta, {why}: it is missing.")
    return meta[key]
