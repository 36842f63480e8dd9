"""Random permutations: complete, deterministic, with random access."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeylib.data.permutation import RandomPermutation


@given(st.integers(1, 150), st.integers(), st.text(max_size=5))
@settings(max_examples=25, deadline=None)
def test_permutation_holds_every_number_once_and_depends_on_its_key_alone(length, seed, name):
    numbers = [RandomPermutation(length, seed, name)[index] for index in range(length)]
    assert sorted(numbers) == list(range(length))
    assert numbers == list(RandomPermutation(length, seed, name))


def test_permutation_is_the_same_on_every_machine():
    # Fixed numbers: a change would reorder the training of existing runs.
    assert list(RandomPermutation(10, 0, "pets", 3)) == [1, 2, 8, 5, 6, 4, 7, 3, 0, 9]
    assert RandomPermutation(10**12, 7)[123_456_789] == 466_272_213_079


def test_every_number_comes_at_every_index_equally_often():
    first = Counter(RandomPermutation(7, seed)[0] for seed in range(2100))
    # 300 times each is expected, with a standard deviation of 16.
    assert set(first) == set(range(7)) and all(230 < count < 370 for count in first.values())


def test_empty_permutation_and_index_outside_raise():
    with pytest.raises(ValueError, match="at least one number"):
        RandomPermutation(0)
    with pytest.raises(IndexError, match="indices 0 to 2, not 3"):
        RandomPermutation(3)[3]
