"""Generation: from prepared prompts to answers, at once or as a stream.

An `Answer` is a text with what is to be known about it: why it ended, its tokens, and how probable the model
finds it. All answers of the library come from `generate` and `stream`: those of `inference`, of the
evaluation, and of the harnesses.
"""

from monkeylib.generation.answer import Answer, EndReason
from monkeylib.generation.context import check_context, context_length, count_visual_tokens
from monkeylib.generation.decoding import generate
from monkeylib.generation.options import check_options
from monkeylib.generation.streaming import AnswerStream, stream

__all__ = [
    "Answer",
    "AnswerStream",
    "EndReason",
    "check_context",
    "check_options",
    "context_length",
    "count_visual_tokens",
    "generate",
    "stream",
]
