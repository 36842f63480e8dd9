"""Log-likelihood of true answers: how probable a model finds them, without generating anything.

Exact match says for each question yes or no, and needs many questions before a small difference shows. The
log-likelihood of the true answer is a number for each question, and takes one forward pass, in which the
answer is given (teacher forcing). From the same pass follows whether greedy decoding would repeat the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.prefix_sharing import visual_inputs
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.model.context import check_context
from monkeylib.monkey import Monkey


class AnswerScores(NamedTuple):
    """Scores of the true answers to some questions.

    Fields:
        log_likelihood: `[questions]` log-probability of the first accepted answer and its end, in nats per
            character of the answer.
        exact: `[questions]` whether greedy decoding gives exactly this answer.
    """

    log_likelihood: np.ndarray
    exact: np.ndarray


@torch.no_grad()
def score_answers(monkey: Monkey, examples: Sequence[Example]) -> AnswerScores:
    """Score the first accepted answer of each example.

    Each image is encoded once, and read once by the language model, for all of its questions. The model is
    put in evaluation mode.

    Raises:
        ValueError: no examples, an example without an answer, or one that does not fit into the context.
    """
    if not examples:
        raise ValueError("There is nothing to score: got no examples.")
    for example in examples:
        if not example.answers or not example.answers[0]:
            raise ValueError(f"{example.id} has no answer whose likelihood could be computed: leave it out")

    monkey.model.eval()
    by_image: dict[str, list[int]] = {}
    for number, example in enumerate(examples):
        by_image.setdefault(example.image_key, []).append(number)

    log_likelihood = np.empty(len(examples))
    exact = np.empty(len(examples), dtype=bool)
    for numbers in by_image.values():
        about_image = [examples[number] for number in numbers]
        sums, right = _score_about_image(monkey, about_image)
        characters = [len(example.answers[0]) for example in about_image]
        log_likelihood[numbers] = sums.double().cpu().numpy() / characters
        exact[numbers] = right.cpu().numpy()

    return AnswerScores(log_likelihood, exact)


def _score_about_image(monkey: Monkey, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Score the answers to questions about one image.

    Returns:
        The log-probability of each answer, `[questions]`, and whether all of its tokens are the most probable
        ones, `[questions]`.
    """
    model, layout = monkey.model, monkey.processor.layout
    (image,) = monkey.encode([examples[0].rendered_image])
    visual_tokens = image.visual_tokens
    count = visual_tokens.shape[0] * visual_tokens.shape[1]
    prefix = layout.prefix_ids([count])

    # What follows the image in each row, and which of its tokens are scored.
    rows, labels = [], []
    for example in examples:
        question = layout.question_ids(example.question, example.prompt)
        answer = layout.answer_ids(example.answers[0])
        rows.append(torch.tensor(question + answer))
        labels.append(torch.tensor([IGNORE_INDEX] * len(question) + answer))
    lengths = [len(prefix) + len(row) for row in rows]
    check_context(model, lengths, [count] * len(rows), max_new_tokens=0)

    # The language model reads the image once; each row goes on from its keys and values.
    first = model(
        torch.tensor([prefix], device=model.device),
        **visual_inputs(visual_tokens),
        use_cache=True,
        logits_to_keep=1,
    )
    first.past_key_values.batch_repeat_interleave(len(rows))

    # Padding on the right follows everything that is scored, so causal attention hides it.
    input_ids = pad_sequence(rows, batch_first=True).to(model.device)
    targets = pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX).to(model.device)
    logits = model(input_ids, past_key_values=first.past_key_values, use_cache=True).logits

    # Each position predicts the next token; the last one of the prefix predicts the first of the row.
    predicted = torch.cat([first.logits[:, -1:].expand(len(rows), -1, -1), logits[:, :-1]], dim=1)
    log_probabilities = predicted.float().log_softmax(-1)

    is_scored = targets != IGNORE_INDEX
    of_targets = log_probabilities.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    is_right = (log_probabilities.argmax(-1) == targets) | ~is_scored
    return (of_targets * is_scored).sum(-1), is_right.all(-1)
