"""Keys and values with room behind them are those that transformers keeps."""

import pytest
import torch
from transformers.cache_utils import DynamicCache

from monkeylib.model import kv_cache
from monkeylib.model.kv_cache import make_cache


def tokens(count: int, rows: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [rows, heads, count, head_dim]."""
    return torch.randn(rows, 3, count, 4), torch.randn(rows, 3, count, 4)


@pytest.fixture()
def caches(monkeypatch):
    monkeypatch.setattr(kv_cache, "ROOM", 4)
    return make_cache(), DynamicCache()


def assert_equal(caches) -> None:
    mine, plain = caches
    assert mine.get_seq_length() == plain.get_seq_length()
    for layer, other in zip(mine.layers, plain.layers, strict=True):
        assert torch.equal(layer.keys, other.keys) and torch.equal(layer.values, other.values)


def append(caches, count: int, rows: int = 2) -> None:
    for layer in (0, 1):
        new = tokens(count, rows)
        for cache in caches:
            keys, values = cache.update(*new, layer)
            assert keys.shape[2] == values.shape[2] == cache.layers[layer].keys.shape[2]
    assert_equal(caches)


def test_tokens_one_by_one_and_many_at_once(caches):
    for count in (7, 1, 1, 1, 1, 1, 9, 1, 5):
        append(caches, count)


def test_cropped_selected_reordered_and_repeated_rows(caches):
    """What generation does to a cache between two tokens."""
    changes = [
        (lambda cache: cache.crop(-3), 2),
        (lambda cache: cache.reorder_cache(torch.tensor([1, 0])), 2),
        (lambda cache: cache.batch_select_indices(torch.tensor([1])), 1),
        (lambda cache: cache.batch_repeat_interleave(3), 3),
        (lambda cache: cache.crop(-1), 3),
    ]
    append(caches, 6)
    for change, rows in changes:
        for cache in caches:
            change(cache)
        assert_equal(caches)
        append(caches, 1, rows)
        append(caches, 2, rows)


def test_rows_that_share_keys_and_values_go_separate_ways(caches):
    cache, _ = caches
    append(caches, 5, rows=1)
    before = [layer.keys.clone() for layer in cache.layers]
    shared = [
        (layer.keys.expand(2, -1, -1, -1), layer.values.expand(2, -1, -1, -1)) for layer in cache.layers
    ]
    branched = make_cache(shared)
    branched.update(*tokens(3), 0)

    assert branched.layers[0].keys.shape[0] == 2 and branched.layers[0].keys.shape[2] == 8
    assert not torch.equal(branched.layers[0].keys[0, :, 5:], branched.layers[0].keys[1, :, 5:])
    append(caches, 2, rows=1)
    assert torch.equal(cache.layers[0].keys[:, :, :5], before[0]), "the common beginning stays"


def test_prompt_is_not_copied_for_each_token(caches):
    """The cost of a token must not grow with the prompt."""
    cache, _ = caches
    append(caches, 100)
    append(caches, 1)
    address = cache.layers[0].keys.data_ptr()
    append(caches, 1)
    append(caches, 1)
    assert cache.layers[0].keys.data_ptr() == address
