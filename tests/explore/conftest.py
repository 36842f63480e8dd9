"""A Monkey in tiles and a base model of one view, both tiny, and an image."""

import pytest

from tests.support import random_monkey
from tests.support.prediction_rows import prediction, write_predictions


@pytest.fixture(scope="package")
def tiled_monkey():
    monkey = random_monkey.make_monkey()
    random_monkey.train_loras(monkey.model)
    monkey.model.eval()
    return monkey


@pytest.fixture()
def image(make_image):
    return make_image(3)


@pytest.fixture()
def predictions(tmp_path):
    """A folder of predictions, two of which are wrong."""
    rows = [prediction(number, correct=number > 1) for number in range(4)]
    write_predictions(tmp_path / "nano-fine.jsonl", rows)
    return tmp_path
