"""The context of a model: how many tokens it takes, and whether a prompt and its answer fit into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from monkeylib.model.generation_options import check_options


def context_length(model: nn.Module) -> int | None:
    """Return the most tokens that a model takes, None if its configuration does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


class ContextError(ValueError):
    """A prompt that does not fit into the model's context together with its answer.

    Attributes:
        room: tokens that the answer may have at most; 0 or fewer where the prompt alone does not fit.
    """

    def __init__(self, sentence: str, room: int) -> None:
        super().__init__(sentence)
        self.room = room


def check_context(
    model: nn.Module, prompt_tokens: Sequence[int], visual_tokens: Sequence[int], max_new_tokens: int = 0
) -> None:
    """Check that prompts and their answers fit into the model's context: beyond it, answers are noise.

    Args:
        model: its configuration states the context; one that does not reads any length.
        prompt_tokens: length of each prompt.
        visual_tokens: how many of them are visual.
        max_new_tokens: maximum length of an answer.

    Raises:
        ContextError: the longest prompt does not fit.
    """
    context = context_length(model)
    if context is None or not prompt_tokens or max(prompt_tokens) + max_new_tokens <= context:
        return

    longest = max(range(len(prompt_tokens)), key=prompt_tokens.__getitem__)
    prompt = "the prompt" if len(prompt_tokens) == 1 else f"prompt {longest + 1} of {len(prompt_tokens)}"
    tokens = prompt_tokens[longest]
    sentence = f"{prompt} has {tokens} tokens, {visual_tokens[longest]} of them visual, "
    if max_new_tokens:
        sentence += f"and max_new_tokens is {max_new_tokens}, {tokens + max_new_tokens} together, "

    advice = "shorten the question or the conversation, or take fewer tiles"
    if tokens < context:
        advice += f", or set max_new_tokens to {context - tokens} at most"
    raise ContextError(f"{sentence}but the model takes {context}: {advice}", context - tokens)


def check_prompts(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    image_token_id: int,
    max_new_tokens: int,
    options: Mapping[str, Any],
) -> None:
    """Check a request before its images are encoded, which takes longer.

    Args:
        model: the model.
        prompts: ids of each prompt.
        image_token_id: stands for a visual token in them.
        max_new_tokens: maximum length of an answer.
        options: of the generation.

    Raises:
        ContextError: a prompt does not fit into the model's context, alone or with its answer.
        ValueError: as `check_options`.
    """
    check_options(max_new_tokens, options)
    visual_tokens = [ids.count(image_token_id) for ids in prompts]
    for room in (0, max_new_tokens):
        check_context(model, [len(ids) for ids in prompts], visual_tokens, room)


def count_visual_tokens(model: Any, input_ids: Tensor) -> list[int]:
    """Return the number of visual tokens in each prompt of a batch `[B, T]`."""
    image_token_id = getattr(model.config, "image_token_id", None)
    if image_token_id is None:
        return [0] * len(input_ids)
    return (input_ids == image_token_id).sum(dim=1).tolist()
