"""The cache of keys and values, with room for the tokens that a model generates."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

# Tokens that a layer has room for beyond those it holds: the prompt is copied once in so many tokens.
ROOM = 256


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer, `[B, heads, T, head_dim]`, the beginning of larger tensors.

    transformers may crop them, or put others in their place when it selects and reorders rows. Where they
    are no longer the beginning of the larger tensors, the next token moves them into new ones.

    The cache of transformers joins the keys and values of each new token to the old ones, which copies the
    whole prompt in every layer for every token. Here they are written behind the old ones, into memory that
    is there already.
    """

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Begin without tokens, in the shapes of the first ones."""
        super().lazy_initialization(key_states, value_states)
        self._key_memory = self.keys = key_states[:, :, :0]
        self._value_memory = self.values = value_states[:, :, :0]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *arguments: object, **options: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the keys and values of new tokens, `[B, heads, new, head_dim]`, and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)

        self._key_memory, self.keys = _append(self._key_memory, self.keys, key_states)
        self._value_memory, self.values = _append(self._value_memory, self.values, value_states)
        return self.keys, self.values


def _append(
    memory: torch.Tensor, tokens: torch.Tensor, new_tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write new tokens behind others.

    Args:
        memory: `[B, heads, capacity, head_dim]`.
        tokens: `[B, heads, T, head_dim]`, the beginning of the memory, or a tensor of its own.
        new_tokens: `[B, heads, new, head_dim]`.

    Returns:
        The memory, a new one where there was no room, and all tokens, its beginning.
    """
    length = tokens.shape[2]
    total = length + new_tokens.shape[2]

    is_beginning = (tokens.data_ptr(), tokens.stride()) == (memory.data_ptr(), memory.stride())
    if not is_beginning or len(tokens) != len(memory) or total > memory.shape[2]:
        batch, heads, _, width = new_tokens.shape
        memory = new_tokens.new_empty(batch, heads, total + ROOM, width)
        memory[:, :, :length] = tokens

    memory[:, :, length:total] = new_tokens
    return memory, memory[:, :, :total]


def make_cache(layers: Iterable[tuple[torch.Tensor, torch.Tensor]] = ()) -> DynamicCache:
    """Return a cache for a language model of which every layer attends to all tokens.

    Args:
        layers: keys and values `[B, heads, T, head_dim]` of each layer with which it begins, which are
            copied; it is empty by default.
    """
    cache = DynamicCache()
    cache.layer_class_to_replicate = RoomyLayer
    for number, (keys, values) in enumerate(layers):
        cache.update(keys, values, number)
    return cache


def empty_cache(model: PreTrainedModel) -> DynamicCache:
    """Return an empty cache for one of our models, with room for new tokens.

    A language model of which some layers attend to a window of tokens only gets transformers' own.
    """
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        return cache
    return make_cache()
