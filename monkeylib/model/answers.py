"""Answers: generated texts, with why they ended, their tokens, and how probable the model finds them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

EndReason = Literal["end of text", "stop string", "length limit"]


@dataclass(frozen=True, eq=False)
class Answer:
    """A generated answer. It prints as its text, and equals any answer or string of the same text.

    Attributes:
        text: without special tokens, stop strings, and white space around it.
        ended_by: the end-of-text token, a stop string, or the limit on new tokens, which cut the answer.
        token_ids: ids of the generated tokens, the end-of-text token included.
        token_log_probabilities: for each of them, its log-probability given the prompt and those before it.
            It is the model's own: the softmax over the full vocabulary at temperature 1, however the tokens
            were selected (greedily, by beams, or sampled at another temperature).
        prompt_tokens: length of the prompt in tokens, visual tokens included.
        visual_tokens: number of visual tokens in the prompt.
        samples: with several answers to a question (`num_return_sequences`), all of them, this one first;
            else empty.
        scores: with `output_scores=True`, what the tokens were selected by, after temperature and other
            processing: `[tokens, vocabulary]`.
        logits: with `output_logits=True`, the model's logits: `[tokens, vocabulary]`.
    """

    text: str
    ended_by: EndReason
    token_ids: tuple[int, ...] = field(repr=False)
    token_log_probabilities: tuple[float, ...] = field(repr=False)
    prompt_tokens: int
    visual_tokens: int
    samples: tuple[Answer, ...] = ()
    scores: Tensor | None = field(default=None, repr=False)
    logits: Tensor | None = field(default=None, repr=False)

    @property
    def tokens(self) -> int:
        """Number of generated tokens, the end-of-text token included."""
        return len(self.token_ids)

    @property
    def log_probability(self) -> float:
        """Log-probability of the answer: the sum over its tokens."""
        return sum(self.token_log_probabilities)

    @property
    def is_cut(self) -> bool:
        """Whether the limit on new tokens ended the answer."""
        return self.ended_by == "length limit"

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        # Not field by field: probabilities differ in their last digits from batch to batch.
        return self.text == str(other) if isinstance(other, Answer | str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON holds of the answer: all but scores and logits, with those of its samples."""
        return {
            "text": self.text,
            "ended_by": self.ended_by,
            "tokens": self.tokens,
            "log_probability": self.log_probability,
            "prompt_tokens": self.prompt_tokens,
            "visual_tokens": self.visual_tokens,
            "token_ids": list(self.token_ids),
            "token_log_probabilities": list(self.token_log_probabilities),
            "samples": [sample.to_dict() for sample in self.samples],
        }
