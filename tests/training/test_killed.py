"""Runs that are killed and called again end as uninterrupted ones, bit for bit.

With dropout, so that random states matter, and with the order of the data and the state of the optimiser.
"""

import signal

import pytest

from monkeylib.training import checkpointing
from tests.support.training_processes import DDP, FSDP, NOISY, assert_same_run, train, train_and_signal


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return the folder of an uninterrupted run of one process."""
    return train(tmp_path_factory.mktemp("uninterrupted"), NOISY)


def test_killed_run_ends_as_an_uninterrupted_one(uninterrupted, tmp_path):
    train_and_signal(tmp_path, signal.SIGKILL)
    assert_same_run(train(tmp_path, NOISY), uninterrupted)


@pytest.mark.parametrize("devices", [DDP, FSDP], ids=["ddp", "fsdp"])
def test_two_killed_processes_end_as_two_uninterrupted_ones(devices, tmp_path):
    train_and_signal(tmp_path / "killed", signal.SIGKILL, **devices)
    resumed = train(tmp_path / "killed", NOISY, workers=True, **devices)
    assert_same_run(resumed, train(tmp_path / "uninterrupted", NOISY, **devices))


def test_preempted_run_saves_a_checkpoint_and_resumes(uninterrupted, tmp_path):
    run = train_and_signal(tmp_path, signal.SIGUSR1)
    assert checkpointing.find_last_checkpoint(run)
    assert_same_run(train(tmp_path, NOISY), uninterrupted)
