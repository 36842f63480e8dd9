"""Signals to a training run: it completes the running step, saves, and ends."""

import os
import signal
from types import SimpleNamespace

import pytest

from monkeylib.training import signals


class StubTrainer:
    """What the callback uses of a trainer.

    Args:
        is_first: whether this is the first process of the run.
        others_signalled: whether another process has got a signal.
    """

    default_root_dir, global_step = "run", 7

    def __init__(self, is_first=True, others_signalled=False):
        self.checkpoints = []
        self.is_global_zero = is_first
        self.strategy = SimpleNamespace(
            reduce_boolean_decision=lambda signalled, all: signalled or others_signalled
        )

    def save_checkpoint(self, file):
        self.checkpoints.append(file)


@pytest.fixture()
def scheduler_calls(monkeypatch):
    """Commands that would be called under SLURM; none is."""
    commands = []
    monkeypatch.setattr(signals.subprocess, "run", lambda command, check: commands.append(command))
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    return commands


def end_micro_batch(callback, trainer, number, accumulation_steps=2):
    module = SimpleNamespace(accumulation_steps=accumulation_steps)
    callback.on_train_batch_end(trainer, module, None, None, number)


@pytest.mark.parametrize("number", signals.PREEMPTION_SIGNALS)
def test_signal_saves_after_the_step_and_requeues_the_job(scheduler_calls, number):
    previous_handler = signal.getsignal(number)
    callback, trainer = signals.Preemption(), StubTrainer()
    callback.on_fit_start()
    try:
        os.kill(os.getpid(), number)
        end_micro_batch(callback, trainer, 6)
        assert trainer.checkpoints == [], "in the middle of a step"

        end_micro_batch(callback, trainer, 7)
        assert trainer.checkpoints == [os.path.join("run", "last.ckpt")]
        assert scheduler_calls == []

        with pytest.raises(
            signals.Preempted, match="after step 7: call the same command again to resume the run"
        ):
            callback.on_train_batch_start(trainer)
    finally:
        callback.teardown()

    assert scheduler_calls == [["scontrol", "requeue", "42"]]
    assert signal.getsignal(number) == previous_handler


def test_process_without_a_signal_saves_with_the_others_and_requeues_nothing(scheduler_calls):
    callback, trainer = signals.Preemption(), StubTrainer(is_first=False, others_signalled=True)
    end_micro_batch(callback, trainer, 1)
    assert len(trainer.checkpoints) == 1

    with pytest.raises(signals.Preempted):
        callback.on_train_batch_start(trainer)
    assert scheduler_calls == []


def test_run_without_a_scheduler_is_not_requeued(scheduler_calls, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID")
    callback, trainer = signals.Preemption(), StubTrainer(others_signalled=True)
    end_micro_batch(callback, trainer, 1)

    with pytest.raises(signals.Preempted):
        callback.on_train_batch_start(trainer)
    assert scheduler_calls == []


def test_run_continues_without_a_signal(scheduler_calls):
    callback, trainer = signals.Preemption(), StubTrainer()
    end_micro_batch(callback, trainer, 1)
    callback.on_train_batch_start(trainer)
    assert trainer.checkpoints == scheduler_calls == []
