"""What both harnesses ask of a model: answers to text and images, and how likely a text is."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from monkeylib.digests import image_digest
from monkeylib.errors import choose
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.prefix_sharing import SharedEncoding
from monkeylib.inference import Monkey
from monkeylib.processing import ImageInput, open_image
from monkeylib.prompts import PROMPTS

Segments = Sequence[str | ImageInput]


def prompted(segments: Segments, prompt: str) -> list[str | ImageInput]:
    """Text and images as they are, with the words of a named prompt around the text.

    Raises:
        ValueError: no text to ask, or no such prompt.
    """
    choose("prompt", prompt, PROMPTS)
    texts = [place for place, segment in enumerate(segments) if isinstance(segment, str)]
    if not texts:
        raise ValueError("there is no text to ask: expected at least one string beside the images")
    before, _, after = PROMPTS[prompt].partition("{question}")
    made = list(segments)
    made[texts[0]] = before + made[texts[0]]
    made[texts[-1]] = made[texts[-1]] + after
    return made


def answers(
    monkey: Monkey,
    questions: Sequence[tuple[str, Sequence[ImageInput]]],
    prompt: str,
    max_new_tokens: int,
    **generation: Any,
) -> list[str]:
    """Answers to a batch of texts with their images, which stand before the text.

    Greedy answers to questions about one image each share the encoding of images that are the same.
    """
    if not generation and all(len(images) == 1 for _, images in questions):
        opened = [open_image(images[0]) for _, images in questions]
        keys = [image_digest(image) for image in opened]
        examples = [
            Example(str(n), image, text, (), prompt, key)
            for n, ((text, _), image, key) in enumerate(zip(questions, opened, keys, strict=True))
        ]
        return SharedEncoding(monkey, max_new_tokens)(examples)
    texts = [prompted([text], prompt)[0] for text, _ in questions]
    inputs = monkey.prepare([list(images) for _, images in questions], texts)
    return monkey.generate(inputs, max_new_tokens, **generation)


@torch.no_grad()
def likelihood(
    monkey: Monkey, text: str, images: Sequence[ImageInput], prompt: str, continuation: str
) -> tuple[float, bool]:
    """The summed log-probability of a continuation, and whether greedy decoding would say it.

    Raises:
        ValueError: an empty continuation.
    """
    inputs = monkey.prepare([list(images)], [prompted([text], prompt)[0]])
    if not (said := monkey.processor.encode_text(continuation)):
        raise ValueError("the likelihood of an empty continuation was asked for: expected some text")
    ids = torch.tensor([said], device=monkey.model.device)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    logits = monkey.model(**inputs, logits_to_keep=len(said) + 1).logits[:, :-1].float()
    greedy = bool((logits.argmax(-1) == ids).all())
    return -float(F.cross_entropy(logits[0], ids[0], reduction="sum")), greedy
