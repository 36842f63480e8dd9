"""Whole runs that are killed and called again end as those in one go, bit for bit: with dropout, the order of
data and the optimiser's state."""

import signal

import pytest

from tests.support.training_processes import DDP, FSDP, NOISY, killed, same, train

STEPS = 8


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """One process in one go."""
    return train(tmp_path_factory.mktemp("straight"), NOISY, steps=STEPS)


def test_a_killed_run_ends_as_one_in_one_go(straight, tmp_path):
    killed(tmp_path, signal.SIGKILL, steps=STEPS)
    same(train(tmp_path, NOISY, steps=STEPS), straight)


@pytest.mark.parametrize("devices", [DDP, FSDP], ids=["ddp", "fsdp"])
def test_two_killed_processes_end_as_two_in_one_go(devices, tmp_path):
    killed(tmp_path / "killed", signal.SIGKILL, steps=STEPS, **devices)
    gone_on = train(tmp_path / "killed", NOISY, steps=STEPS, **devices)
    same(gone_on, train(tmp_path / "straight", NOISY, steps=STEPS, **devices))


def test_a_preempted_run_saves_itself_between_two_steps(straight, tmp_path):
    run = killed(tmp_path, signal.SIGUSR1, steps=STEPS)
    assert (run / "last.ckpt").exists()
    same(train(tmp_path, NOISY, steps=STEPS), straight)
