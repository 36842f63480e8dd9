"""Answers from a shared prefix equal those of single questions."""

from dataclasses import replace

import pytest
import torch

from monkeylib.evaluation.examples import Example, make_batches
from monkeylib.evaluation.prefix_sharing import PrefixSharingMonkey, monkey_fingerprint
from monkeylib.model import shared_prefix
from monkeylib.monkey import Monkey
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor
from tests.support import noise_questions, random_monkey
from tests.support.answers import assert_distinct, assert_same


@pytest.mark.parametrize("most_copied", [0, 2**40])
@pytest.mark.parametrize(("questions", "size"), [(3, 4), (1, 3), (8, 8)])
def test_prefix_sharing_gives_the_answers_of_single_questions(
    monkey, monkeypatch, questions, size, most_copied
):
    monkeypatch.setattr(shared_prefix, "MOST_COPIED", most_copied)
    examples = noise_questions.make_examples(images=12 // questions + 1, questions=questions)
    monkey.forget_images()
    encoded = []
    read = []
    features = monkey.model.get_image_features
    forward = monkey.model.language_model.forward
    monkeypatch.setattr(
        monkey.model, "get_image_features", lambda *a, **k: encoded.append(1) or features(*a, **k)
    )

    def spy(*arguments, **options):
        # Images come as embeddings; questions alone and new tokens come as ids.
        embeddings = options["inputs_embeds"]
        read.append(0 if embeddings is None else embeddings.shape[0])
        return forward(*arguments, **options)

    monkeypatch.setattr(monkey.model.language_model, "forward", spy)
    answer = PrefixSharingMonkey(monkey, max_new_tokens=6)
    batches = make_batches(examples, size)
    shared = {e.id: given for batch in batches for e, given in zip(batch, answer(batch), strict=True)}
    images = {example.image_key for example in examples}

    assert len(encoded) == len(images)  # each once, though batches cut through the questions of an image

    if questions == 1:
        assert sum(read) == len(examples)
    else:
        assert sum(read) <= len(images) + len(batches), "the language model reads an image once in a batch"

    alone = {e.id: monkey.answer(e.image(), e.question, max_new_tokens=6) for e in examples}

    assert_same([shared[id] for id in alone], list(alone.values()))
    assert_distinct(list(alone.values()))  # so that a mix-up would show


def test_images_of_different_grids_have_the_answers_of_single_questions(make_image):
    monkey = random_monkey.make_monkey()
    monkey.model.use_auto_grid(6)
    images = MonkeyImageProcessor(16, max_tiles=6)
    automatic = Monkey(monkey.model, MonkeyProcessor(images, monkey.processor.tokenizer, queries=4))
    shapes = {"wide": (120, 30), "tall": (30, 120), "large": (90, 60)}
    examples = [
        Example(f"{name} {number}", make_image(number, *shape), f"what {number}?", (), image_id=f"{name}")
        for name, shape in shapes.items()
        for number in range(3)
    ]
    examples = [replace(example, image=make_image(0, *shapes[example.image_key])) for example in examples]
    predict = PrefixSharingMonkey(automatic, max_new_tokens=5)

    # All in one batch, and then images of one grid, which share a prefix.
    answers = predict(examples)
    assert {answer.visual_tokens for answer in answers} == {5 * 4, 7 * 4}
    assert_same(predict(examples[:6]), answers[:6])
    alone = [automatic.answer(example.image, example.question, max_new_tokens=5) for example in examples]
    assert_same(answers, alone)
    assert_distinct(answers)
    assert monkey_fingerprint(automatic, 4) != monkey_fingerprint(monkey, 4)


def test_another_grid_gives_the_answers_of_that_grid(monkey, make_image):
    examples = [
        replace(example, image=make_image(number // 2, 20, 90))
        for number, example in enumerate(noise_questions.make_examples(2, 2))
    ]
    other = monkey.with_grid("auto")
    answers = PrefixSharingMonkey(other, max_new_tokens=5)(examples)
    alone = [monkey.answer(e.image, e.question, max_new_tokens=5, grid="2x1") for e in examples]
    assert_same(answers, alone)
    assert_distinct([*answers, *PrefixSharingMonkey(monkey, max_new_tokens=5)(examples)])

    names = {monkey_fingerprint(each, 5) for each in (monkey, other, monkey.with_grid("1x2"))}
    assert len(names) == 3


def test_prefix_is_not_shared_beyond_the_trained_length(monkey, monkeypatch):
    monkeypatch.setattr(monkey.model.config.text_config, "trained_length", 60, raising=False)
    short = noise_questions.make_examples(1, 4)

    # Two questions per image in both batches, but only the short ones fit the trained length.
    long = [Example(name, noise_questions.make_image(0), "x " * 40, ("a",), image_id="i") for name in "ab"]
    cached_tokens = []
    generate = monkey.model.generate
    monkeypatch.setattr(
        monkey.model,
        "generate",
        lambda **options: (
            cached_tokens.append(options["past_key_values"].get_seq_length()) or generate(**options)
        ),
    )
    answer = PrefixSharingMonkey(monkey, max_new_tokens=2)
    answer(short)
    answer(long)

    assert [count > 0 for count in cached_tokens] == [True, False]


def test_fingerprint_depends_on_weights_grid_and_settings(monkey):
    before = monkey_fingerprint(monkey, 4)
    assert monkey_fingerprint(monkey, 5) != before

    one_view = MonkeyProcessor(
        MonkeyImageProcessor(16, views="global"), monkey.processor.tokenizer, queries=4
    )

    assert monkey_fingerprint(Monkey(monkey.model, one_view), 4) != before

    weight = monkey.model.resampler.query
    original = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1e-3)
        assert monkey_fingerprint(monkey, 4) != before
        weight.copy_(original)

    assert monkey_fingerprint(monkey, 4) == before
