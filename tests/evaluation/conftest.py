"""A tiny random Monkey, as it is loaded from a checkpoint."""

import pytest

from monkeylib.monkey import Monkey
from tests.support import random_monkey


@pytest.fixture(scope="module")
def monkey() -> Monkey:
    return random_monkey.make_monkey()
