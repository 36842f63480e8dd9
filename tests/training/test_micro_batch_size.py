"""The micro-batch is chosen by the memory that a step needs and a device has."""

from types import SimpleNamespace

import pytest
import torch

from monkeylib import profiles
from monkeylib.training import memory, micro_batch_size
from monkeylib.training.micro_batch_size import available_memory, choose_micro_batch, generous_bytes

SMALL = profiles.load_profile("small")
GB = 10**9


@pytest.fixture()
def counted(monkeypatch):
    """Let a step need 2 GB and 1 GB for each example; return the numbers of examples that were counted."""
    counts = []

    def count_step(profile, batches, devices, on_gpu):
        counts.append(len(batches[0]["input_ids"]))
        return SimpleNamespace(peak=(2 + counts[-1]) * GB)

    monkeypatch.setattr(memory, "count_step", count_step)
    return counts


def test_largest_micro_batch_that_fits_is_chosen_and_said(counted):
    size, sentence = choose_micro_batch(SMALL, 1, 1, 16 * GB)  # 14.4 can be used: 12 examples
    assert size == 8
    assert sentence == (
        "micro-batches of 8: 32 examples at once would need 34.0 GB, and 14.4 GB of 16.0 GB can be used"
    )
    assert counted == [1, 2]


def test_batch_that_fits_is_not_divided(counted):
    assert choose_micro_batch(SMALL, 1, 1, 40 * GB) == (None, "")


def test_what_cannot_fit_is_refused_with_the_numbers(counted):
    with pytest.raises(ValueError, match="one example at once needs 3.0 GB, and 2.7 GB of 3.0 GB can"):
        choose_micro_batch(SMALL, 1, 1, 3 * GB)


def test_micro_batch_of_the_profile_is_kept(counted):
    named = SMALL.with_training(micro_batch_size=16)
    # What is free now counts for nothing here.
    assert choose_micro_batch(named, 1, 1, GB, total=20 * GB) == (16, "")
    assert choose_micro_batch(SMALL, 1, 1, None) == (None, "")
    assert counted == [16]


@pytest.mark.parametrize(("devices", "named", "size"), [(1, 16, 16), (5, None, 7)])
def test_micro_batch_that_certainly_does_not_fit_is_refused(counted, devices, named, size):
    """The profile's own, and what a device gets of a batch that cannot be divided evenly."""
    profile = SMALL.with_training(micro_batch_size=named)
    with pytest.raises(ValueError, match=f"micro-batches of {size} need {size + 2}.0 GB, and a device has 8"):
        choose_micro_batch(profile, devices, 1, 4 * GB, total=8 * GB)


def test_named_micro_batch_that_is_small_beyond_doubt_is_not_counted(counted):
    profile = profiles.load_profile("smoke").with_training(micro_batch_size=2)
    assert choose_micro_batch(profile, 1, 1, 12 * GB) == (2, "")
    assert counted == []


def test_several_devices_share_the_batch(counted):
    assert choose_micro_batch(SMALL, 8, 1, 8 * GB) == (None, "")
    assert choose_micro_batch(SMALL, 8, 1, 6 * GB)[0] == 2


@pytest.mark.parametrize("name", ["smoke", "nano"])
def test_what_is_small_beyond_doubt_is_not_counted(counted, name):
    assert choose_micro_batch(profiles.load_profile(name), 1, 1, 12 * GB) == (None, "")
    assert counted == []


@pytest.mark.parametrize("name", ["smoke", "nano"])
def test_generous_bytes_are_more_than_a_step_needs(name):
    profile = profiles.load_profile(name)
    state = torch.get_rng_state()
    assert micro_batch_size._count(profile, 1, 1) < generous_bytes(profile, 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_memory_of_this_machine_is_divided_among_its_processes():
    if torch.cuda.is_available():
        pytest.skip("on a GPU, each process has its own")
    assert 0 < available_memory(8, 1) < available_memory(2, 1)
