"""A model whose answers differ, and questions to it."""

import pytest

from monkeylib.monkey import Monkey
from tests.support import random_monkey

QUESTIONS = ["What is it?", "And what does this longer question ask?", "Why?"]


@pytest.fixture()
def monkey() -> Monkey:
    """A model whose answers differ from question to question."""
    monkey = random_monkey.make_monkey()
    return Monkey(monkey.model.eval(), monkey.processor)


@pytest.fixture()
def questions(make_image):
    return [(make_image(number), question) for number, question in enumerate(QUESTIONS)]
