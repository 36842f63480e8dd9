"""What both harnesses need of a model: answers about images, and log-likelihoods of continuations."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from monkeylib.digests import image_digest
from monkeylib.evaluation.encoding_sharing import EncodingSharingRaised
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.prefix_sharing import PrefixSharingMonkey
from monkeylib.images import ImageInput, open_image
from monkeylib.model.context import check_context, count_visual_tokens
from monkeylib.monkey import Monkey
from monkeylib.raised_monkey import RaisedMonkey


def generate_answers(
    monkey: Monkey,
    questions: Sequence[tuple[str, Sequence[ImageInput]]],
    prompt: str,
    max_new_tokens: int,
    **generation: Any,
) -> list[str]:
    """Answer a batch of texts, each with images that stand before it.

    Images that are the same are encoded once, in all batches (`Monkey.cached_images`). Where greedy answers
    are about one image each, the language model also reads an image once in a batch.

    Args:
        monkey: the model.
        questions: pairs of a text and its images.
        prompt: name of the prompt around each text.
        max_new_tokens: maximum length of an answer.
        generation: further arguments of `generate`; greedy without any.
    """
    # Sampling and beams, and prompts with several images, take the plain way.
    if not generation and all(len(images) == 1 for _, images in questions):
        examples = [
            _as_example(str(number), text, images[0], prompt)
            for number, (text, images) in enumerate(questions)
        ]
        sharing = EncodingSharingRaised if isinstance(monkey, RaisedMonkey) else PrefixSharingMonkey
        return [answer.text for answer in sharing(monkey, max_new_tokens)(examples)]

    images = [list(images) for _, images in questions]
    texts = [text for text, _ in questions]
    inputs = monkey.prepare_encoded(images, texts, prompt)
    return [answer.text for answer in monkey.generate(inputs, max_new_tokens, **generation)]


def _as_example(name: str, text: str, image: ImageInput, prompt: str) -> Example:
    """Return an example whose image is recognised by its pixels, wherever it comes from."""
    opened = open_image(image)
    return Example(name, opened, text, (), prompt, image_digest(opened))


@torch.no_grad()
def compute_log_likelihood(
    monkey: Monkey, text: str, images: Sequence[ImageInput], prompt: str, continuation: str
) -> tuple[float, bool]:
    """Return the summed log-probability of a continuation, and whether greedy decoding gives it.

    Raises:
        ValueError: an empty continuation, or one that does not fit into the model's context.
    """
    continuation_ids = monkey.text_ids(continuation)
    if not continuation_ids:
        raise ValueError("the continuation is empty: expected some text")

    # The continuation is appended to the prompt as ids: no token spans the boundary.
    inputs = monkey.prepare_encoded([list(images)], [text], prompt)
    visual_tokens = count_visual_tokens(monkey.model, inputs["input_ids"])
    check_context(monkey.model, [inputs["input_ids"].shape[1]], visual_tokens, len(continuation_ids))

    targets = torch.tensor([continuation_ids], device=monkey.model.device)
    inputs = monkey.append_ids(inputs, targets)

    # The logits of a position are about the next token: from the prompt's last token to the last but one.
    count = len(continuation_ids) + 1
    takes_count = "logits_to_keep" in inspect.signature(monkey.model.forward).parameters
    options = {"logits_to_keep": count} if takes_count else {}
    logits = monkey.model(**inputs, **options).logits[:, -count:-1].float()
    is_greedy = bool((logits.argmax(-1) == targets).all())
    return -float(F.cross_entropy(logits[0], targets[0], reduction="sum")), is_greedy
