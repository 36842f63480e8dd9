import threading

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from monkeylib.model import QwenConfig
from monkeylib.model.qwen import QwenForCausalLM, stretch

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "eos_token_id": None,
    "pad_token_id": 0,
}


@pytest.fixture(scope="module")
def model() -> QwenForCausalLM:
    """Trained up to 16 tokens, so that a long prompt is short."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(QwenConfig(**SIZES, trained_length=16)).eval()
    assert isinstance(model, QwenForCausalLM)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8) if parameter.ndim > 1 else parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def plain(model) -> Qwen2ForCausalLM:
    library = Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()
    library.load_state_dict(model.state_dict())
    return library


def ids(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 40, (1, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("length, factor", [(1, 1), (16, 1), (17, 3), (32, 3), (33, 7), (64, 7), (65, 15)])
def test_the_base_is_stretched_by_doublings(length, factor):
    assert stretch(torch.tensor([length]), 16).item() == factor


@torch.no_grad()
def test_up_to_the_trained_length_it_is_the_librarys_qwen2(model, plain):
    assert torch.equal(model(ids(16)).logits, plain(ids(16)).logits)
    assert not torch.allclose(model(ids(17)).logits, plain(ids(17)).logits, atol=1e-2)


@torch.no_grad()
def test_each_extension_has_its_switch(model, plain):
    long = ids(40)
    weights = model.state_dict()

    def logits(**switches) -> torch.Tensor:
        other = QwenForCausalLM(QwenConfig(**SIZES, trained_length=16, **switches)).eval()
        other.load_state_dict(weights)
        return other(long).logits

    both = model(long).logits
    assert torch.equal(logits(), both)
    assert torch.equal(logits(dynamic_ntk=False, log_n=False), plain(long).logits)
    assert not torch.allclose(logits(log_n=False), both, atol=1e-3)
    assert not torch.allclose(logits(dynamic_ntk=False), both, atol=1e-3)


@torch.no_grad()
def test_training_knows_no_long_prompt(model, plain):
    model.train(), plain.train()
    try:
        assert torch.equal(model(ids(40)).logits, plain(ids(40)).logits)
    finally:
        model.eval(), plain.eval()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_decoding_with_a_cache_equals_reading_the_whole_again(model, attention):
    prompt = ids(20)
    model.set_attn_implementation(attention)
    made = model.generate(prompt, max_new_tokens=8, do_sample=False)
    again = prompt
    for _ in range(8):
        again = torch.cat([again, model(again).logits[:, -1:].argmax(-1)], 1)
    model.set_attn_implementation("sdpa")
    assert torch.equal(made, again)


@torch.no_grad()
def test_a_cache_keeps_the_stretch_of_its_own_prompt(model):
    """Two conversations in turn, one of them long: neither changes the other."""
    short, long, next_token = ids(10), ids(40), ids(1, seed=3)

    def follow(first: torch.Tensor, between: torch.Tensor | None) -> torch.Tensor:
        cache = model(first, use_cache=True).past_key_values
        if between is not None:
            model(between, use_cache=True)
        return model(next_token, past_key_values=cache).logits

    for mine, other in ((short, long), (long, short)):
        assert torch.equal(follow(mine, None), follow(mine, other))


@torch.no_grad()
def test_two_threads_with_one_model_do_not_meet(model):
    """A long prompt in one thread, and in the midst of it a short one in another."""
    short, long, found = ids(10), ids(40), []
    alone = [model(tokens).logits for tokens in (short, long)]

    def ask() -> None:
        with torch.no_grad():
            found.append(model(short).logits)

    def interrupt(*_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            other = threading.Thread(target=ask)
            other.start()
            other.join()

    hook = model.model.rotary_emb.register_forward_pre_hook(interrupt)
    found.append(model(long).logits)
    hook.remove()
    assert torch.equal(found[0], alone[0]) and torch.equal(found[1], alone[1])


@torch.no_grad()
def test_a_pass_that_fails_leaves_no_stretch(model):
    expected = model.model.rotary_emb(torch.zeros(1, 40, 32), torch.arange(40)[None])
    hook = model.model.layers[0].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(ids(40))
    hook.remove()
    after = model.model.rotary_emb(torch.zeros(1, 40, 32), torch.arange(40)[None])
    assert all(torch.equal(*pair) for pair in zip(expected, after, strict=True))


@torch.no_grad()
def test_a_short_row_beside_a_long_one_is_read_as_if_alone(model):
    short, long = ids(10), ids(40, seed=1)
    batch = torch.cat([torch.cat([torch.zeros(1, 30, dtype=torch.long), short], 1), long])
    mask = (batch != 0).long()
    made = model.generate(batch, attention_mask=mask, max_new_tokens=5, do_sample=False)
    for row, alone in zip(made, (short, long), strict=True):
        assert torch.equal(
            row[40:], model.generate(alone, max_new_tokens=5, do_sample=False)[0, alone.shape[1] :]
        )


def test_it_is_saved_and_loaded(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, QwenForCausalLM) and loaded.config.trained_length == 16
    with torch.no_grad():
        assert torch.equal(loaded(ids(40)).logits, model(ids(40)).logits)
