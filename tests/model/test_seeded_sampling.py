"""Samples of a seed are the same again, and leave torch's own random numbers alone."""

import threading

import pytest
import torch


def test_seed_decides_the_samples_and_leaves_torch_alone(monkey, questions):
    """At this temperature all tokens are almost equally probable."""

    def sample(seed: int) -> list[tuple[int, ...]]:
        answer = monkey.answer(
            *questions[0],
            max_new_tokens=8,
            do_sample=True,
            temperature=1000.0,
            num_return_sequences=3,
            seed=seed,
        )
        return [sample.token_ids for sample in answer.samples]

    state = torch.random.get_rng_state()
    assert sample(1) == sample(1) != sample(2)
    assert len(set(sample(1))) == 3
    assert torch.equal(torch.random.get_rng_state(), state)


SAMPLING = {"max_new_tokens": 8, "do_sample": True, "temperature": 1000.0}


def test_samples_of_a_seed_are_the_same_beside_others_that_are_drawn(monkey, questions):
    image, question = questions[0]
    alone = [monkey.answer(image, question, seed=seed, **SAMPLING).token_ids for seed in (1, 2)]
    state = torch.random.get_rng_state()

    # Each stream draws in a thread of its own.
    streams = [monkey.stream(image, question, seed=seed, **SAMPLING) for seed in (1, 2)]
    for _ in range(10):
        for stream in streams:
            next(stream, None)
    assert [stream.answer.token_ids for stream in streams] == alone
    assert torch.equal(torch.random.get_rng_state(), state)

    # What another thread draws while the model computes.
    hook = monkey.model.register_forward_pre_hook(lambda *_: torch.rand(1) is None or None)
    try:
        assert monkey.answer(image, question, seed=1, **SAMPLING).token_ids == alone[0]
    finally:
        hook.remove()
    assert not torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("way", [{}, {"num_beams": 2}])
def test_samples_of_a_seed_are_the_same_while_another_thread_draws(monkey, questions, way):
    def sample() -> tuple[int, ...]:
        return monkey.answer(*questions[0], seed=7, **SAMPLING, **way).token_ids

    alone = sample()
    has_ended = threading.Event()

    def draw() -> None:
        while not has_ended.is_set():
            torch.rand(8)

    other = threading.Thread(target=draw)
    other.start()
    try:
        assert [sample() for _ in range(10)] == [alone] * 10
    finally:
        has_ended.set()
        other.join()


def test_samples_of_a_seed_are_those_of_torchs_generator_with_this_seed(monkey, questions):
    answer = monkey.answer(*questions[0], seed=7, **SAMPLING)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        assert monkey.answer(*questions[0], **SAMPLING).token_ids == answer.token_ids


def test_generator_is_free_again_where_sampling_fails(monkey, questions):
    def fail(input_ids, scores):
        raise RuntimeError("on the way")

    state = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="on the way"):
        monkey.answer(*questions[0], seed=1, logits_processor=[fail], **SAMPLING)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert monkey.stream(*questions[0], seed=1, **SAMPLING).answer.tokens == 8
