"""Answers of a model to requests, and what becomes of those that nobody reads to the end."""

import pytest

from monkeylib.serving.chat_requests import read_request
from monkeylib.serving.engine import Engine
from monkeylib.serving.limits import Limits, RequestError
from tests.support.serving import MODEL, user


def request(image, question="x", length=4):
    body = {"model": MODEL, "messages": [user(image, question)], "max_tokens": length}
    return read_request(body, MODEL, Limits())


def test_answer_that_is_left_early_leaves_nothing_behind(served_monkey, make_image):
    engine = Engine(served_monkey, MODEL, Limits())
    stream = engine.stream(request(make_image(), length=400))
    next(stream)
    stream.close()

    *_, answer = engine.stream(request(make_image()))
    assert answer == served_monkey.answer(make_image(), "x", max_new_tokens=4)


def test_what_the_model_does_not_take_is_the_clients_to_mend(served_monkey, make_image):
    engine = Engine(served_monkey, MODEL, Limits())
    with pytest.raises(RequestError, match="but the model takes"):
        list(engine.stream(request(make_image(), "x " * 40_000)))
