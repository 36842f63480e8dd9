"""A tiny random Monkey, as it is loaded from a checkpoint."""

import pytest

from monkeylib.inference import Monkey
from tests.support import random_monkey


@pytest.fixture(scope="module")
def monkey() -> Monkey:
    return random_monkey.make_monkey()
