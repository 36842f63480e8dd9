"""Keys and values of an image that several questions share, without a copy for each of them.

Questions about one image have the beginning of their prompts in common. A language model attends in two
parts: the queries of all questions about an image are multiplied with the image's keys at once, and those of
each question with the keys that follow. One softmax goes over both.

    with share_prefixes(language_model, prefixes, image_of_row) as cache:
        model.generate(..., past_key_values=cache)

The paper's language model has 0.5 MB of keys and values a token: sixteen questions about an image of 1,280
visual tokens would copy 10 GB. Where copies are small, they are made (`MOST_COPIED`).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from monkeylib.model.kv_cache import RoomyLayer, make_cache

# Its name among the implementations of attention, and the only one that it may stand in for.
_SHARED, _PLAIN = "sdpa_of_shared_prefix", "sdpa"

# Copies of more bytes than these are worth two products in place of a fused kernel.
MOST_COPIED = 64 * 2**20


class SharedStates(NamedTuple):
    """Keys, or values, of the prompts of a batch.

    Attributes:
        prefix: of the images, `[images, heads, P, head_dim]`.
        rest: of what follows in each prompt, `[rows, heads, T, head_dim]`.
        rows: number of prompts about each image; they stand side by side.
    """

    prefix: Tensor
    rest: Tensor
    rows: Sequence[int]


class SharedPrefixLayer(RoomyLayer):
    """Keys and values of one layer: of a few images, and of the many prompts that go on from them.

    `keys` and `values` are those of what follows the images, `[rows, heads, T, head_dim]`.
    """

    def __init__(self, prefix_keys: Tensor, prefix_values: Tensor, rows: Sequence[int]) -> None:
        """Begin with the images alone; arguments as of `SharedStates`."""
        super().__init__()
        self.prefix_keys, self.prefix_values, self.rows = prefix_keys, prefix_values, rows

    def update(
        self, key_states: Tensor, value_states: Tensor, *arguments: object, **options: object
    ) -> tuple[SharedStates, SharedStates]:
        """Append the keys and values of new tokens, `[rows, heads, new, head_dim]`, and return all."""
        keys, values = super().update(key_states, value_states)
        return (
            SharedStates(self.prefix_keys, keys, self.rows),
            SharedStates(self.prefix_values, values, self.rows),
        )

    def get_seq_length(self) -> int:
        """Return the number of tokens of a prompt so far, those of its image among them."""
        return self.prefix_keys.shape[2] + super().get_seq_length()


@contextmanager
def share_prefixes(
    language_model: nn.Module, prefixes: Sequence[tuple[Tensor, Tensor]], image_of_row: Sequence[int]
) -> Iterator[DynamicCache]:
    """Lend a cache of prompts that go on from images, to be used within the block.

    Args:
        language_model: which attends to it.
        prefixes: keys and values `[images, heads, P, head_dim]` of each layer.
        image_of_row: the image of each prompt.
    """
    bytes_of_copies = sum(states[:1].nbytes for layer in prefixes for states in layer) * len(image_of_row)
    # Other kernels know nothing of shared keys, and rows of an image are multiplied together.
    can_share = language_model.config._attn_implementation in (_PLAIN, _SHARED)
    stand_together = list(image_of_row) == sorted(image_of_row)

    if bytes_of_copies <= MOST_COPIED or not can_share or not stand_together:
        rows = torch.tensor(image_of_row, device=prefixes[0][0].device)
        yield make_cache((keys[rows], values[rows]) for keys, values in prefixes)
        return

    counts = Counter(image_of_row)
    rows_of_images = [counts[image] for image in range(len(prefixes[0][0]))]
    cache = DynamicCache()
    cache.layers = [SharedPrefixLayer(keys, values, rows_of_images) for keys, values in prefixes]
    with _shared_attention(language_model):
        yield cache


_lock = threading.Lock()
_users: Counter[int] = Counter()


@contextmanager
def _shared_attention(language_model: nn.Module) -> Iterator[None]:
    """Let a language model attend to shared keys and values within the block, and to others as before.

    Threads may be in such blocks at the same time: the last one puts back what was.
    """
    config = language_model.config
    with _lock:
        _users[id(config)] += 1
        config._attn_implementation = _SHARED
    try:
        yield
    finally:
        with _lock:
            _users[id(config)] -= 1
            if not _users[id(config)]:
                del _users[id(config)]
                config._attn_implementation = _PLAIN


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor | SharedStates,
    value: Tensor | SharedStates,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend as the implementations of transformers do, also to shared keys and values.

    Args:
        module: the attention.
        query: `[rows, heads, q, head_dim]`.
        key, value: of all tokens so far; there may be fewer heads than queries have.
        attention_mask: `[rows, 1, q, P + T]`, False where a query must not look; None where it may look at
            all tokens up to its own.
        dropout, scaling, options: of the fused kernel; shared keys have no dropout.

    Returns:
        `[rows, q, heads, head_dim]`, and no weights.
    """
    if isinstance(key, Tensor):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )

    rows, heads, length, head_dim = query.shape
    kv_heads, prefix_length = key.prefix.shape[1:3]
    scale = head_dim**-0.5 if scaling is None else scaling
    # Query heads that share keys and values lie one after the other: [rows, kv_heads, group * q, head_dim]
    q = (query * scale).reshape(rows, kv_heads, -1, head_dim)

    # [rows, kv_heads, group * q, P] beside [rows, kv_heads, group * q, T]
    to_prefix = _multiply_prefix(q, key.prefix.transpose(2, 3), key.rows)
    to_rest = q @ key.rest.transpose(2, 3)
    hidden = _hidden(attention_mask, length, key.rest.shape[2], prefix_length, query.device)
    to_rest = to_rest.unflatten(2, (-1, length)).masked_fill(hidden, -torch.inf).flatten(2, 3)

    weights = torch.cat([to_prefix, to_rest], dim=-1).softmax(dim=-1, dtype=torch.float32).to(q.dtype)
    of_prefix, of_rest = weights.split([prefix_length, key.rest.shape[2]], dim=-1)
    context = _multiply_prefix(of_prefix, value.prefix, key.rows) + of_rest @ value.rest
    return context.reshape(rows, heads, length, head_dim).transpose(1, 2).contiguous(), None


def _multiply_prefix(x: Tensor, of_images: Tensor, rows: Sequence[int]) -> Tensor:
    """Multiply what belongs to rows, `[rows, heads, n, d]`, with what belongs to their images,
    `[images, heads, d, m]`: one product an image, of all its rows."""
    products = []
    for of_rows, of_image in zip(x.split(list(rows)), of_images, strict=True):
        # [heads, rows * n, d] @ [heads, d, m]
        together = of_rows.transpose(0, 1).flatten(1, 2) @ of_image
        products.append(together.unflatten(1, (len(of_rows), -1)).transpose(0, 1))
    return products[0] if len(products) == 1 else torch.cat(products)


def _hidden(mask: Tensor | None, length: int, rest: int, prefix: int, device: torch.device) -> Tensor:
    """Return where queries must not look behind the prefix, `[rows or 1, 1, 1, q, T]`."""
    if mask is not None:
        return ~mask[:, :, None, :, prefix:]
    # Query i is token `rest - length + i`.
    return torch.ones(length, rest, dtype=torch.bool, device=device).triu(rest - length + 1)[None, None, None]


AttentionInterface.register(_SHARED, attend)
AttentionMaskInterface.register(_SHARED, sdpa_mask)
