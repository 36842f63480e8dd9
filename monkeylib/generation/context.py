"""Whether prompts and their answers fit into a model's context."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


def context_length(model: nn.Module) -> int | None:
    """Return the most tokens that a model takes, None if its configuration does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


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
        ValueError: the longest prompt does not fit.
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
    raise ValueError(f"{sentence}but the model takes {context}: {advice}")


def count_visual_tokens(model: Any, input_ids: Tensor) -> list[int]:
    """Return the number of visual tokens in each prompt of a batch `[B, T]`."""
    image_token_id = getattr(model.config, "image_token_id", None)
    if image_token_id is None:
        return [0] * len(input_ids)
    return (input_ids == image_token_id).sum(dim=1).tolist()
