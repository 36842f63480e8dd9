import copy
import doctest
import threading

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM, StaticCache
from transformers.generation import CompileConfig

from monkeylib.model import QwenConfig, qwen
from monkeylib.model.kv_cache import make_cache
from monkeylib.model.qwen import QwenForCausalLM, ntk_alpha

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
    """A model trained up to 16 tokens, so that few tokens are a long prompt."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(QwenConfig(**SIZES, trained_length=16)).eval()
    assert isinstance(model, QwenForCausalLM)

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8) if parameter.ndim > 1 else parameter.add_(0.2 * torch.randn_like(parameter))

    return model


@pytest.fixture(scope="module")
def plain(model) -> Qwen2ForCausalLM:
    qwen2 = Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()
    qwen2.load_state_dict(model.state_dict())
    return qwen2


def ids(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 40, (1, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("length, alpha", [(1, 1), (16, 1), (17, 3), (32, 3), (33, 7), (64, 7), (65, 15)])
def test_alpha_grows_with_each_doubling_of_the_length(length, alpha):
    assert ntk_alpha(torch.tensor([length]), 16).item() == alpha


@torch.no_grad()
def test_up_to_the_trained_length_it_is_qwen2(model, plain):
    assert torch.equal(model(ids(16)).logits, plain(ids(16)).logits)
    assert not torch.allclose(model(ids(17)).logits, plain(ids(17)).logits, atol=1e-2)


@torch.no_grad()
def test_each_extension_can_be_switched_off(model, plain):
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
def test_training_uses_neither_extension(model, plain):
    model.train()
    plain.train()
    try:
        assert torch.equal(model(ids(40)).logits, plain(ids(40)).logits)
    finally:
        model.eval()
        plain.eval()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_decoding_with_a_cache_equals_decoding_without(model, attention):
    prompt = ids(20)
    model.set_attn_implementation(attention)
    with_cache = model.generate(prompt, max_new_tokens=8, do_sample=False)
    without_cache = prompt
    for _ in range(8):
        next_id = model(without_cache).logits[:, -1:].argmax(-1)
        without_cache = torch.cat([without_cache, next_id], 1)

    model.set_attn_implementation("sdpa")

    assert torch.equal(with_cache, without_cache)


@torch.no_grad()
def test_cache_keeps_the_alpha_of_its_prompt(model):
    """Two conversations alternate, one of them long: neither changes the other."""
    short, long, next_token = ids(10), ids(40), ids(1, seed=3)

    def follow(first: torch.Tensor, between: torch.Tensor | None) -> torch.Tensor:
        cache = model(first, use_cache=True).past_key_values
        if between is not None:
            model(between, use_cache=True)
        return model(next_token, past_key_values=cache).logits

    for mine, other in ((short, long), (long, short)):
        assert torch.equal(follow(mine, None), follow(mine, other))


@torch.no_grad()
def test_threads_that_share_a_model_do_not_disturb_each_other(model):
    """A short prompt in another thread while a long one is running."""
    short, long, logits = ids(10), ids(40), []
    alone = [model(tokens).logits for tokens in (short, long)]

    def run_short() -> None:
        with torch.no_grad():
            logits.append(model(short).logits)

    def interrupt(*_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            other = threading.Thread(target=run_short)
            other.start()
            other.join()

    hook = model.model.rotary_emb.register_forward_pre_hook(interrupt)
    logits.append(model(long).logits)
    hook.remove()

    assert torch.equal(logits[0], alone[0])
    assert torch.equal(logits[1], alone[1])


@torch.no_grad()
def test_failed_forward_pass_leaves_no_alpha_behind(model):
    expected = model.model.rotary_emb(torch.zeros(1, 40, 32), torch.arange(40)[None])
    hook = model.model.layers[0].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(ids(40))

    hook.remove()
    after = model.model.rotary_emb(torch.zeros(1, 40, 32), torch.arange(40)[None])

    assert all(torch.equal(*pair) for pair in zip(expected, after, strict=True))


@torch.no_grad()
def test_short_row_beside_a_long_one_answers_as_alone(model):
    short, long = ids(10), ids(40, seed=1)
    batch = torch.cat([torch.cat([torch.zeros(1, 30, dtype=torch.long), short], 1), long])
    mask = (batch != 0).long()
    generated = model.generate(batch, attention_mask=mask, max_new_tokens=5, do_sample=False)
    for row, alone in zip(generated, (short, long), strict=True):
        assert torch.equal(
            row[40:], model.generate(alone, max_new_tokens=5, do_sample=False)[0, alone.shape[1] :]
        )


@torch.no_grad()
@pytest.mark.parametrize("length", [8, 40])
def test_static_cache_answers_as_one_that_grows(model, length):
    options = {"max_new_tokens": 12, "do_sample": False}
    expected = model.generate(ids(length), **options)
    assert torch.equal(model.generate(ids(length), **options, cache_implementation="static"), expected)


@torch.no_grad()
def test_decoding_of_a_long_prompt_compiles_in_one_piece(model):
    config = CompileConfig(fullgraph=True, dynamic=False, backend="eager", mode=None)
    config._compile_all_devices = True
    options = {"max_new_tokens": 4, "do_sample": False}
    expected = model.generate(ids(40), **options)

    # A copy, since a model keeps what was compiled.
    compiled = copy.deepcopy(model)
    torch.compiler.reset()
    options |= {"cache_implementation": "static", "compile_config": config}
    assert torch.equal(compiled.generate(ids(40), **options), expected)
    assert hasattr(compiled, "_compiled_call")


@torch.no_grad()
def test_outputs_are_tuples_where_the_caller_wants_them(model):
    for module in (model, model.model):
        values = module(ids(20), use_cache=True, return_dict=False)
        assert isinstance(values, tuple)
        assert torch.equal(values[0], module(ids(20))[0])


@torch.no_grad()
@pytest.mark.parametrize("is_static", [False, True])
@pytest.mark.parametrize("length", [8, 40])
def test_no_number_is_waited_for_while_tokens_are_decoded(length, is_static):
    """On the meta device, as on a GPU, there is no number to read: whoever wants one, gets an error."""
    with torch.device("meta"):
        on_meta = QwenForCausalLM(QwenConfig(**SIZES, trained_length=16)).eval()
        prompt, token = torch.zeros(1, length, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long)

    cache = StaticCache(on_meta.config, max_cache_len=length + 2) if is_static else make_cache()
    on_meta(prompt, past_key_values=cache, use_cache=True)
    for _ in range(2):
        logits = on_meta(token, past_key_values=cache, use_cache=True).logits
    assert logits.shape == (1, 1, 40)
    assert is_static or cache.get_seq_length() == length + 2
    with pytest.raises(RuntimeError, match="meta"):
        bool((logits > 0).any())


@torch.no_grad()
def test_log_n_is_computed_once_for_all_layers_and_for_long_prompts_alone(model, monkeypatch):
    calls = []
    factors = qwen.log_n_factors
    monkeypatch.setattr(qwen, "log_n_factors", lambda *given: calls.append(given) or factors(*given))
    model(ids(16))
    assert not calls
    model(ids(17))
    assert len(calls) == 1


def test_model_survives_saving(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, QwenForCausalLM) and loaded.config.trained_length == 16
    with torch.no_grad():
        assert torch.equal(loaded(ids(40)).logits, model(ids(40)).logits)


def test_examples_in_docstrings_hold():
    results = doctest.testmod(qwen)
    assert results.attempted > 0
    assert results.failed == 0
