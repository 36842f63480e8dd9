"""Labels of a conversation: answers are learned, everything else is masked.

    tokens   prefix, image   prompt          answer, end of text     next prompt
    labels   IGNORE_INDEX    IGNORE_INDEX    the ids themselves      IGNORE_INDEX

The shift by one position, so that a token predicts the next one, is the language model's.
"""

from __future__ import annotations

from collections.abc import Sequence

# Label of a token that is not learned; what torch's cross-entropy skips.
IGNORE_INDEX = -100


def mask_tokens(ids: Sequence[int]) -> list[int]:
    """Return labels for tokens that are not learned: a prefix, an image's span, a padded position."""
    return [IGNORE_INDEX] * len(ids)


def mask_prompt(prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> list[int]:
    """Return the labels of a turn: its prompt is masked, its answer and end of text are learned."""
    return [*mask_tokens(prompt_ids), *answer_ids]
