"""Prompts that share the keys and values of an image answer as those that have copies of them."""

import threading

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from monkeylib.model import shared_prefix
from monkeylib.model.kv_cache import make_cache
from monkeylib.model.qwen import QwenConfig
from monkeylib.model.shared_prefix import SharedPrefixLayer, share_prefixes

PREFIX, WORDS = 12, 50


def build(kind):
    sizes = {
        "vocab_size": WORDS,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.5,
    }
    torch.manual_seed(0)
    if kind == "qwen":
        return AutoModelForCausalLM.from_config(QwenConfig(**sizes, num_key_value_heads=4)).eval()
    groups = 2 if kind == "grouped" else 1
    return AutoModelForCausalLM.from_config(Qwen2Config(**sizes, num_key_value_heads=4 // groups)).eval()


@torch.no_grad()
def read_prefixes(model, images):
    """Return keys and values `[images, heads, P, head_dim]` of each layer."""
    cache = make_cache()
    model(torch.randint(WORDS, (images, PREFIX)), past_key_values=cache, use_cache=True)
    return [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]


@torch.no_grad()
def read_on(model, cache, rows, has_padding):
    """Return logits of two passes: several tokens behind the prefix, some of them padded, and one more."""
    torch.manual_seed(1)
    mask = torch.ones(rows, PREFIX + 5, dtype=torch.long)
    if has_padding:
        for row in range(rows):
            mask[row, PREFIX : PREFIX + row % 4] = 0
    logits = []
    for count in (4, 1):
        length = cache.get_seq_length() + count
        ids = torch.randint(4, WORDS, (rows, count))
        positions = (mask.cumsum(dim=1) - 1)[:, length - count : length]
        options = {"attention_mask": mask[:, :length]} if has_padding else {}
        output = model(ids, past_key_values=cache, use_cache=True, position_ids=positions, **options)
        logits.append(output.logits)
    # Nobody reads what a padded token predicts.
    return torch.cat(logits, dim=1)[mask[:, PREFIX:].bool()]


@pytest.mark.parametrize("kind", ["qwen", "plain", "grouped"])
@pytest.mark.parametrize("image_of_row", [[0, 0, 0], [0, 0, 0, 1, 1], [0, 1, 1, 1, 2]])
@pytest.mark.parametrize("has_padding", [True, False])
def test_logits_are_those_of_copies(kind, image_of_row, has_padding, monkeypatch):
    model = build(kind)
    prefixes = read_prefixes(model, max(image_of_row) + 1)
    logits = []
    for most_copied in (2**40, 0):
        monkeypatch.setattr(shared_prefix, "MOST_COPIED", most_copied)
        with share_prefixes(model, prefixes, image_of_row) as cache:
            is_shared = [isinstance(layer, SharedPrefixLayer) for layer in cache.layers]
            assert is_shared == [most_copied == 0] * 2
            logits.append(read_on(model, cache, len(image_of_row), has_padding))
            assert cache.get_seq_length() == PREFIX + 5
    copied, shared = logits
    assert len(shared) and torch.allclose(shared, copied, atol=5e-5)
    # Each row sees its own image.
    assert not torch.allclose(shared[0], shared[-1], atol=1e-2)


def test_prefix_is_not_copied(monkeypatch):
    monkeypatch.setattr(shared_prefix, "MOST_COPIED", 0)
    model = build("plain")
    prefixes = read_prefixes(model, 2)
    with share_prefixes(model, prefixes, [0, 0, 1]) as cache:
        read_on(model, cache, 3, False)
        for layer, (keys, values) in zip(cache.layers, prefixes, strict=True):
            assert layer.prefix_keys is keys and layer.prefix_values is values
            assert layer.keys.shape == (3, 4, 5, 8)


@pytest.mark.parametrize("reason", ["rows apart", "another kernel"])
def test_what_cannot_be_shared_is_copied(reason, monkeypatch):
    monkeypatch.setattr(shared_prefix, "MOST_COPIED", 0)
    model = build("plain")
    prefixes = read_prefixes(model, 2)
    image_of_row = [0, 1, 0] if reason == "rows apart" else [0, 0, 1]
    if reason == "another kernel":
        model.set_attn_implementation("eager")
    with share_prefixes(model, prefixes, image_of_row) as cache:
        keys = cache.layers[0].keys
        assert torch.equal(keys, prefixes[0][0][image_of_row])


def test_attention_is_what_it_was_after_errors_and_other_threads(monkeypatch):
    monkeypatch.setattr(shared_prefix, "MOST_COPIED", 0)
    model = build("plain")
    prefixes = read_prefixes(model, 1)
    before = model.config._attn_implementation
    ids = torch.tensor([[4, 5, 6]])
    with torch.no_grad():
        expected = model(ids).logits

    is_inside, may_leave = threading.Event(), threading.Event()

    def stay_inside():
        with share_prefixes(model, prefixes, [0, 0]):
            is_inside.set()
            may_leave.wait(30)

    thread = threading.Thread(target=stay_inside)
    thread.start()
    assert is_inside.wait(30)
    with pytest.raises(ZeroDivisionError), share_prefixes(model, prefixes, [0, 0]) as cache:
        read_on(model, cache, 2, True)
        1 / 0  # noqa: B018
    # The other thread is inside still, which changes nothing for prompts without shared keys.
    with torch.no_grad():
        assert torch.equal(model(ids).logits, expected)
    may_leave.set()
    thread.join()
    assert model.config._attn_implementation == before == "sdpa"
