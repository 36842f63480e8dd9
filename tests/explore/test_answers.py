"""Answers side by side."""

import pytest

from monkeylib.explore.answers import BASE, SideBySide, converse
from monkeylib.explore.variants import ONE_VIEW, TILES, begin_session
from monkeylib.messages import Message
from monkeylib.raised_monkey import RaisedMonkey
from tests.support import raised_models


@pytest.fixture()
def models(tiled_monkey):
    return SideBySide(tiled_monkey, base=tiled_monkey)


def test_all_answer_the_same_question_at_once(models, tiled_monkey, image):
    texts = list(models.stream(converse([image], "x"), max_new_tokens=5))
    assert list(models.answers) == [BASE, "one view", "tiles, no LoRA", "tiles, LoRA per tile"]
    assert texts[-1] == {title: answer.text for title, answer in models.answers.items()}

    for title, variant in ((BASE, ONE_VIEW), ("one view", ONE_VIEW), ("tiles, LoRA per tile", TILES)):
        expected = begin_session(tiled_monkey, [image], variant).answer("x", max_new_tokens=5)
        assert models.answers[title].token_ids == expected.token_ids


def test_image_is_encoded_once(models, tiled_monkey, image, monkeypatch):
    list(models.stream(converse([image], "x"), max_new_tokens=1))
    # Of the class: another `forward` of this module would be another model.
    monkeypatch.setattr(type(tiled_monkey.model.vision), "forward", lambda *_, **__: 1 / 0)
    list(models.stream(converse([image.copy()], "y"), max_new_tokens=1))
    with pytest.raises(ZeroDivisionError):
        list(models.stream(converse([image.rotate(90)], "y"), max_new_tokens=1))


def test_conversation_with_a_second_image(models, tiled_monkey, image, make_image):
    title = "tiles, LoRA per tile"
    first = converse([image], "x")
    list(models.stream(first, [title], max_new_tokens=3))
    answer = models.answers[title]
    second = converse([make_image(9)], "y", (*first, Message("assistant", (answer.text,))))
    list(models.stream(second, [title], max_new_tokens=3))
    expected = tiled_monkey.answer_messages(second, max_new_tokens=3)
    assert models.answers == {title: expected}


def test_raised_model_answers_in_one_view_and_in_tiles(tiled_monkey, image, tmp_path):
    raised = raised_models.raise_base(raised_models.save_base(tmp_path / "base"))
    monkey = RaisedMonkey(raised.model.eval(), raised.processor)
    models = SideBySide(monkey)
    texts = list(models.stream(converse([image], "x"), max_new_tokens=3))
    expected = {
        "one view": monkey.answer(image, "x", max_new_tokens=3, grid=(0, 0)),
        "tiles, LoRA per tile": monkey.answer(image, "x", max_new_tokens=3),
    }
    assert models.answers == expected
    assert texts[-1] == {title: answer.text for title, answer in expected.items()}
    assert expected["one view"].token_ids != expected["tiles, LoRA per tile"].token_ids

    # As the base model beside a Monkey.
    beside = SideBySide(tiled_monkey, monkey)
    list(beside.stream(converse([image], "x"), [BASE], max_new_tokens=3))
    assert beside.answers == {BASE: expected["one view"]}


def test_what_cannot_be_answered_is_one_sentence(models, image):
    with pytest.raises(ValueError, match="there is no image yet"):
        list(models.stream(converse([], "x")))
    with pytest.raises(ValueError, match="no model called 'gpt'"):
        list(models.stream(converse([image], "x"), ["gpt"]))
    assert list(models.stream(converse([image], "x"), max_seconds=0.0)) == []
