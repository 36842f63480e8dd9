"""Samples for the tests of synthetic data, rendered once."""

import pytest

from monkeylib.data import synthetic
from monkeylib.data.synthetic import words

SAMPLES_PER_SPLIT = 80


@pytest.fixture(scope="session")
def samples_by_split():
    """Samples of each split."""
    return {
        split: [synthetic.make_sample(number, split) for number in range(SAMPLES_PER_SPLIT)]
        for split in words.SPLITS
    }


@pytest.fixture(scope="session")
def all_samples(samples_by_split):
    """Samples of all splits."""
    return [sample for samples in samples_by_split.values() for sample in samples]
