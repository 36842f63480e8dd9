"""Sessions of raised models: an image is encoded once, and answers are those of single questions."""

import contextlib

import pytest
import torch

from monkeylib.images import ImageError
from monkeylib.messages import ImagePart, Message
from monkeylib.raised_monkey import RaisedMonkey
from monkeylib.raising import raise_resolution
from monkeylib.raising.tower import find_tower
from tests.raising.conftest import noise_image, train_adapters
from tests.support import tiny_vlms
from tests.support.answers import assert_same
from tests.support.raised_models import raise_base, save_base

QUESTIONS = ["what", "why is it so"]


@pytest.fixture(scope="module")
def monkey(tmp_path_factory):
    return RaisedMonkey(*raise_base(save_base(tmp_path_factory.mktemp("base") / "llava")))


@contextlib.contextmanager
def count_encodings(model):
    """Yield a list that gets the number of views of each call of the vision tower."""
    views = []
    hook = find_tower(model).register_forward_pre_hook(
        lambda _, args, kwargs: views.append(len(kwargs.get("pixel_values", args[0] if args else ()))),
        with_kwargs=True,
    )
    try:
        yield views
    finally:
        hook.remove()


def assert_close(answers, others):
    """A batch rounds its last digits in its own way: the first tokens are as likely."""
    for answer, other in zip(answers, others, strict=True):
        assert (answer.prompt_tokens, answer.visual_tokens) == (other.prompt_tokens, other.visual_tokens)
        torch.testing.assert_close(
            answer.token_log_probabilities[0], other.token_log_probabilities[0], rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("family", tiny_vlms.FAMILIES)
def test_each_family_encodes_an_image_once_or_says_why_not(family):
    vlm = tiny_vlms.build(family)
    raised = raise_resolution(vlm.model, vlm.processor, (1, 2), rank=2, tile_size=vlm.tile_size)
    train_adapters(raised.model)
    monkey, image = RaisedMonkey(*raised), noise_image()
    single = [monkey.answer(image, question, max_new_tokens=2) for question in QUESTIONS]

    with count_encodings(raised.model) as views:
        batch = monkey.answer_batch([(image, question) for question in QUESTIONS], max_new_tokens=2)
    assert_close(batch, single)

    if not monkey.has_sessions:
        assert sum(views) == 6
        with pytest.raises(ValueError, match="generates in a way of its own.*: call `answer_batch`"):
            monkey.session(image)
        return
    assert sum(views) == 3
    with count_encodings(raised.model) as views:
        session = monkey.session(image)
        answers = [session.answer(question, max_new_tokens=2) for question in QUESTIONS]
        session.chat(QUESTIONS[0], max_new_tokens=1)
    assert_close(answers, single)
    assert sum(views) == 3


def test_session_chats_and_streams_as_the_model_does(monkey):
    image, history = noise_image(), []
    with count_encodings(monkey.model) as views:
        session = monkey.session(image, "1x2")
        answers = [session.chat(question, max_new_tokens=3) for question in QUESTIONS]
        streamed = session.stream("who", max_new_tokens=3).answer
    assert views == [3]

    for question, answer in zip([*QUESTIONS, "who"], [*answers, streamed], strict=True):
        expected = monkey.chat(image, question, history, max_new_tokens=3, grid="1x2")
        assert_same([answer], [expected])
        history.append((question, answer))
    assert session.turns == history

    session.forget()
    assert_same(
        [session.stream("who", max_new_tokens=3).answer],
        [monkey.answer(image, "who", max_new_tokens=3, grid="1x2")],
    )


def test_options_are_those_of_the_model(monkey):
    image, session = noise_image(), monkey.session(noise_image())
    for options in ({"num_beams": 2}, {"do_sample": True, "seed": 1, "num_return_sequences": 2}):
        expected = monkey.answer(image, "why", max_new_tokens=3, **options)
        assert_same([session.answer("why", max_new_tokens=3, **options)], [expected])
    assert session.answer_batch([]) == []
    assert_same([session.answer("who", "caption")], [monkey.answer(image, "who", "caption")])


def test_several_images_stand_where_the_messages_have_them(monkey):
    images = [noise_image(0), noise_image(1)]
    session = monkey.session(images)
    assert_same([session.answer("who", max_new_tokens=3)], [monkey.answer(images, "who", max_new_tokens=3)])

    messages = [Message("user", (ImagePart(images[0]), "and", ImagePart(images[1]), "who"))]
    expected = monkey.answer_messages(messages, max_new_tokens=3)
    assert_same([session.stream_messages(messages, max_new_tokens=3).answer], [expected])
    with pytest.raises(ValueError, match="places for 1 images, but the session has 2"):
        session.stream_messages([Message("user", (ImagePart(images[0]), "who"))])


@pytest.mark.parametrize("image", [None, [], [None]])
def test_session_without_an_image_is_refused(monkey, image):
    with pytest.raises(ImageError, match="there is no image"):
        monkey.session(image)


def test_prompt_that_does_not_fit_is_refused(monkey):
    with pytest.raises(ValueError, match="the prompt has .* tokens, 20 of them visual"):
        monkey.session(noise_image()).answer("a" * 600)
