"""A session answers as `Monkey.answer` and `Monkey.chat` do, but reads nothing twice."""

import pytest
import torch

from monkeylib.messages import ImagePart, Message
from monkeylib.model import shared_prefix
from monkeylib.session import Session
from tests.support.answers import assert_same

QUESTIONS = ["x", "what is in line 2?", "who?", "what is in line 3?"]


@pytest.fixture()
def watched(monkey, monkeypatch):
    """A Monkey that notes how many views its ViT encodes, and how many tokens its language model reads."""
    encoded, read = [], []
    encode, forward = monkey.model.vision.forward, monkey.model.language_model.model.forward

    def watched_encode(pixel_values, *arguments, **options):
        encoded.append(len(pixel_values))
        return encode(pixel_values, *arguments, **options)

    def watched_forward(*arguments, **options):
        embeds, ids = options.get("inputs_embeds"), options.get("input_ids")
        read.append((embeds if embeds is not None else ids).shape[:2].numel())
        return forward(*arguments, **options)

    monkeypatch.setattr(monkey.model.vision, "forward", watched_encode)
    monkeypatch.setattr(monkey.model.language_model.model, "forward", watched_forward)
    return monkey, encoded, read


@pytest.mark.parametrize("prompt", ["vqa", "caption"])
def test_questions_are_answered_by_themselves(monkey, make_image, prompt):
    image = make_image()
    session = monkey.session(image)
    for question in [*QUESTIONS, QUESTIONS[0]]:
        text = question if prompt == "vqa" else ""
        expected = monkey.answer(image, text, prompt, max_new_tokens=6)
        assert_same([session.answer(text, prompt, max_new_tokens=6)], [expected])


def test_image_is_encoded_and_read_once(watched, make_image):
    monkey, encoded, read = watched
    session = monkey.session(make_image())
    assert encoded == [5] and not read

    session.answer(QUESTIONS[0], max_new_tokens=1)
    session.answer(QUESTIONS[1], max_new_tokens=1)
    assert encoded == [5]

    # The image's tokens are read with the first question alone.
    image_tokens = len(monkey.processor.image_ids())
    assert read[0] == image_tokens > sum(read[1:])


@pytest.mark.parametrize("most_copied", [0, 2**40])
def test_questions_in_a_batch_share_the_image(watched, make_image, monkeypatch, most_copied):
    """With the image's keys and values copied for each of them, or shared."""
    monkeypatch.setattr(shared_prefix, "MOST_COPIED", most_copied)
    monkey, encoded, read = watched
    image = make_image()
    expected = [monkey.answer(image, question, max_new_tokens=6) for question in QUESTIONS]
    monkey.forget_images()
    encoded.clear()
    read.clear()

    session = monkey.session(image)
    assert_same(session.answer_batch(QUESTIONS, max_new_tokens=6), expected)
    assert encoded == [5]
    image_tokens = len(monkey.processor.image_ids())
    assert read[0] == image_tokens, "the image, once"
    assert sum(read[1:]) < 2 * image_tokens

    # What was read stays for the questions that follow.
    read.clear()
    assert_same(session.answer_batch(QUESTIONS[:2], max_new_tokens=6), expected[:2])
    assert_same([session.answer(QUESTIONS[3], max_new_tokens=6)], expected[3:])
    assert max(read) < image_tokens
    assert session.answer_batch([]) == []


def test_turns_of_a_chat_read_only_what_is_new(watched, make_image):
    monkey, encoded, read = watched
    image = make_image()
    session, history = monkey.session(image), []
    lengths = []
    for question in QUESTIONS:
        read.clear()
        answer = session.chat(question, max_new_tokens=4)
        lengths.append(read[0])
        assert_same([answer], [monkey.chat(image, question, history, max_new_tokens=4)])
        history.append((question, answer))

    assert max(lengths[1:]) < lengths[0] / 2
    assert session.turns == history

    # A question by itself in between does not change the chat.
    assert_same([session.answer("who?", max_new_tokens=4)], [monkey.answer(image, "who?", max_new_tokens=4)])
    assert_same([session.chat("x", max_new_tokens=4)], [monkey.chat(image, "x", history, max_new_tokens=4)])
    session.forget()
    assert_same([session.chat("x", max_new_tokens=4)], [monkey.answer(image, "x", max_new_tokens=4)])


def test_stream_is_a_turn_of_the_chat(monkey, make_image):
    image = make_image()
    session = monkey.session(image)
    first = session.chat("x", max_new_tokens=4)
    stream = session.stream("who?", max_new_tokens=4)
    assert "".join(stream).strip() == stream.answer.text
    assert_same([stream.answer], [monkey.chat(image, "who?", [("x", first)], max_new_tokens=4)])
    assert session.turns == [("x", first), ("who?", stream.answer)]

    expected = monkey.chat(image, "x", session.turns, max_new_tokens=4)
    assert_same([session.chat("x", max_new_tokens=4)], [expected])


def test_stream_that_is_closed_early_is_no_turn(monkey, make_image):
    image = make_image()
    session = monkey.session(image)
    with session.stream("x", max_new_tokens=40) as stream:
        next(stream)
    assert session.turns == []
    assert_same([session.chat("who?", max_new_tokens=4)], [monkey.answer(image, "who?", max_new_tokens=4)])


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"do_sample": True, "seed": 1},
        {"do_sample": True, "seed": 1, "num_return_sequences": 3},
        {"cache_implementation": "static"},
        {"stop_strings": ["e"]},
    ],
)
def test_options_give_the_answers_that_they_give_without_a_session(monkey, make_image, options):
    image = make_image()
    session = monkey.session(image)
    session.answer("who?", max_new_tokens=4)

    answers = [
        session.answer("x", max_new_tokens=4, **options),
        *session.answer_batch(["x", "who?"], **options),
    ]

    expected = [monkey.answer(image, "x", max_new_tokens=4, **options)]
    if not options.get("do_sample"):
        expected += [monkey.answer(image, question, **options) for question in ("x", "who?")]
    for answer, other in zip(answers, expected, strict=False):
        assert answer.token_ids == other.token_ids
        assert [sample.token_ids for sample in answer.samples] == [
            sample.token_ids for sample in other.samples
        ]


@pytest.mark.parametrize(
    "setting", [{"num_beams": 3}, {"use_cache": False}, {"cache_implementation": "static"}]
)
def test_settings_of_the_model_itself_give_the_answers_that_they_give_without_a_session(
    monkey, make_image, setting
):
    for name, value in setting.items():
        setattr(monkey.model.generation_config, name, value)
    image = make_image()
    session = monkey.session(image)

    answers = [session.answer("x", max_new_tokens=4), *session.answer_batch(["x", "who?"], max_new_tokens=4)]

    expected = [monkey.answer(image, question, max_new_tokens=4) for question in ("x", "x", "who?")]
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in expected]


def test_several_images_and_grids(monkey, make_image):
    images = [make_image(1), make_image(2, 40, 120)]
    session = monkey.session(images, grid="1x2")
    expected = monkey.answer(images, "x", max_new_tokens=4, grid="1x2")
    assert_same([session.answer("x", max_new_tokens=4)], [expected])
    with pytest.raises(ValueError, match="there is no image"):
        monkey.session([])


def test_prompts_beyond_the_trained_length_are_read_anew(monkey, make_image):
    """There, positions are scaled by the length of the prompt: an image reads differently."""
    monkey.model.config.text_config.trained_length = 30
    image = make_image()
    session = monkey.session(image)
    for question in QUESTIONS[:2]:
        assert_same(
            [session.answer(question, max_new_tokens=4)], [monkey.answer(image, question, max_new_tokens=4)]
        )
    assert_same(
        session.answer_batch(QUESTIONS[:2], max_new_tokens=4),
        [monkey.answer(image, question, max_new_tokens=4) for question in QUESTIONS[:2]],
    )


def test_error_on_the_way_leaves_nothing_half_read(monkey, make_image, monkeypatch):
    image = make_image()
    session = monkey.session(image)
    session.answer("who?", max_new_tokens=4)

    with monkeypatch.context() as patch:
        layer = monkey.model.language_model.model.layers[-1]
        patch.setattr(layer, "forward", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.answer("what?", max_new_tokens=4)

    assert_same(
        [session.answer("what?", max_new_tokens=4)], [monkey.answer(image, "what?", max_new_tokens=4)]
    )


def test_prompt_that_does_not_fit_the_context_is_refused(monkey, make_image):
    session = monkey.session(make_image())
    with pytest.raises(ValueError, match="but the model takes 2048"):
        session.answer("x" * 5000)
    assert session.answer("x", max_new_tokens=2).tokens == 2


@torch.no_grad()
def test_session_does_not_change_the_model(monkey, make_image):
    before = {name: value.clone() for name, value in monkey.model.state_dict().items()}
    monkey.session(make_image()).answer_batch(QUESTIONS, max_new_tokens=2)
    assert all(torch.equal(value, before[name]) for name, value in monkey.model.state_dict().items())


def test_conversation_of_a_caller_has_its_images_anywhere(watched, make_image):
    monkey, encoded, read = watched
    images = [make_image(1), make_image(2)]
    messages = [
        Message("system", ("Be brief.",)),
        Message("user", ("Is", ImagePart(images[0]), "a cat?")),
        Message("assistant", ("no",)),
        Message("user", ("And", ImagePart(images[1]), "?")),
    ]
    expected = [
        monkey.answer_messages(messages[:2], max_new_tokens=3),
        monkey.answer_messages(messages, max_new_tokens=3),
    ]
    monkey.forget_images()
    encoded.clear()

    first, second = monkey.encode(images)
    session = Session(monkey.model, monkey.processor, [first])
    assert_same([session.stream_messages(messages[:2], max_new_tokens=3).answer], expected[:1])
    session = Session(monkey.model, monkey.processor, [first, second])
    read.clear()
    assert_same([session.stream_messages(messages, max_new_tokens=3).answer], expected[1:])
    assert encoded == [5, 5] and session.turns == []

    # What is said again behind the last image is not read again.
    before = read[0]
    read.clear()
    assert_same([session.stream_messages(messages, max_new_tokens=3).answer], expected[1:])
    assert read[0] == 1 < before
    with pytest.raises(ValueError, match="places for 1 images, but the session has 2"):
        session.stream_messages(messages[:2])
