"""How devices share a batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeylib import profiles
from monkeylib.training.data_parallel import Shard, accumulation_steps

SMOKE = profiles.load_profile("smoke")


def test_neighbours_go_through_the_devices_at_the_same_time():
    batch = list(range(8))
    assert Shard(0, world_size=2, accumulation=2).micro_batches(batch) == [[0, 1], [4, 5]]
    assert Shard(1, world_size=2, accumulation=2).micro_batches(batch) == [[2, 3], [6, 7]]


@given(st.integers(0, 40), st.integers(1, 5), st.integers(1, 5))
def test_devices_share_a_batch_without_loss(size, devices, accumulation):
    batch = list(range(size))
    shares = [Shard(device, devices, accumulation).micro_batches(batch) for device in range(devices)]

    assert all(len(micro_batches) == accumulation for micro_batches in shares)
    assert sorted(example for share in shares for part in share for example in part) == batch

    sizes = [len(part) for share in shares for part in share]
    assert max(sizes) - min(sizes) <= 1


def test_accumulation_makes_up_the_batch_size():
    profile = SMOKE.with_training(batch_size=12, micro_batch_size=2)
    assert [accumulation_steps(profile, devices) for devices in (1, 2, 3)] == [6, 3, 2]
    assert accumulation_steps(SMOKE.with_training(batch_size=12, micro_batch_size=None), 3) == 1

    with pytest.raises(
        ValueError, match="12 examples cannot be divided over 4 devices with micro-batches of 2"
    ):
        accumulation_steps(profile, 4)
