from dataclasses import replace

import pytest
import torch

from monkeylib import profiles
from monkeylib.evaluation.encoding_sharing import EncodingSharingRaised
from monkeylib.evaluation.examples import Example
from monkeylib.experiments import nano_llava
from monkeylib.raised_monkey import RaisedMonkey
from monkeylib.raising import raise_resolution
from monkeylib.raising.encodings import can_share
from monkeylib.raising.tower import find_tower
from tests.raising.conftest import noise_image
from tests.support import tiny_vlms
from tests.support.raised_models import raise_base, save_base


@pytest.fixture(scope="module")
def monkey(tmp_path_factory):
    raised = raise_base(save_base(tmp_path_factory.mktemp("base") / "llava"))
    return RaisedMonkey(raised.model, raised.processor)


def examples():
    questions = ["what", "why is it so", "who"]
    return [
        Example(f"{image}-{question}", noise_image(image), question, (), "plain", image_id=str(image))
        for image in (0, 1)
        for question in questions
    ]


def test_images_are_encoded_once_and_answers_are_those_of_single_questions(monkey):
    views = []
    hook = find_tower(monkey.model).register_forward_pre_hook(
        lambda _, args, kwargs: views.append(len(kwargs.get("pixel_values", args[0] if args else ()))),
        with_kwargs=True,
    )
    try:
        sharing = EncodingSharingRaised(monkey, max_new_tokens=3)
        batch = sharing(examples())
        again = sharing(examples()[3:])
    finally:
        hook.remove()

    # Two images of 2x2 tiles and a global view; the second one stays for the next batch.
    assert views == [5, 5]
    single = [monkey.answer(e.image, e.question, "plain", max_new_tokens=3) for e in examples()]
    for answer, expected in zip([*batch, *again], [*single, *single[3:]], strict=True):
        assert answer.prompt_tokens == expected.prompt_tokens
        torch.testing.assert_close(
            answer.token_log_probabilities[0], expected.token_log_probabilities[0], rtol=1e-3, atol=1e-3
        )


def test_name_follows_weights_grid_and_prompts(monkey):
    name = EncodingSharingRaised(monkey).name
    assert EncodingSharingRaised(monkey).name == name
    assert EncodingSharingRaised(monkey, 5).name != name
    assert EncodingSharingRaised(monkey.with_grid("1x2")).name != name


def test_family_that_generates_in_its_own_way_answers_too():
    model, processor, *_ = tiny_vlms.build("blip2")
    raised = raise_resolution(model, processor, rank=2)
    assert not can_share(raised.model)
    answers = EncodingSharingRaised(RaisedMonkey(*raised), max_new_tokens=2)(examples()[:2])
    assert [answer.visual_tokens for answer in answers] == [20, 20]


@pytest.mark.parametrize("family", [*tiny_vlms.FAMILIES, "nano_llava"])
def test_every_family_gives_the_first_tokens_of_single_questions(family):
    """Families encode images in classes and fields of their own."""
    tile_size = None
    if family == "nano_llava":
        model, processor = nano_llava.build_base(profiles.load_profile("smoke"))
    else:
        model, processor, _, tile_size, _ = tiny_vlms.build(family)
    raised = raise_resolution(model, processor, rank=2, tile_size=tile_size)
    monkey = RaisedMonkey(raised.model, raised.processor)

    prompt = monkey.default_prompt
    questions = [replace(example, prompt=prompt) for example in examples()]
    answers = EncodingSharingRaised(monkey, max_new_tokens=2)(questions)
    for answer, example in zip(answers, questions, strict=True):
        expected = monkey.answer(example.image, example.question, prompt, max_new_tokens=2)
        assert answer.prompt_tokens == expected.prompt_tokens
        torch.testing.assert_close(
            answer.token_log_probabilities[0], expected.token_log_probabilities[0], rtol=1e-3, atol=1e-3
        )
