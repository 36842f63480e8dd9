"""What a run does when the scheduler asks for its machine."""

import os
import signal
from types import SimpleNamespace

import pytest

from monkeylib.training import callbacks


class Trainer:
    """What the callback uses of a trainer; `told`: whether another process was asked to end."""

    default_root_dir, global_step = "run", 7

    def __init__(self, first=True, told=False):
        self.saved, self.is_global_zero = [], first
        self.strategy = SimpleNamespace(reduce_boolean_decision=lambda own, all: own or told)

    def save_checkpoint(self, file):
        self.saved.append(file)


@pytest.fixture()
def calls(monkeypatch):
    """Calls of other programs, none of which is made."""
    made = []
    monkeypatch.setattr(callbacks.subprocess, "run", lambda call, check: made.append(call))
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    return made


def end_of_pass(callback, trainer, number, passes=2):
    callback.on_train_batch_end(trainer, SimpleNamespace(accumulation_steps=passes), None, None, number)


@pytest.mark.parametrize("number", callbacks.PREEMPTION_SIGNALS)
def test_a_signal_saves_after_the_step_and_queues_the_job_again(calls, number):
    before, callback, trainer = signal.getsignal(number), callbacks.Preemption(), Trainer()
    callback.on_fit_start()
    try:
        os.kill(os.getpid(), number)
        end_of_pass(callback, trainer, 6)
        assert trainer.saved == [], "in the middle of a step"
        end_of_pass(callback, trainer, 7)
        assert trainer.saved == [os.path.join("run", "last.ckpt")] and calls == []
        with pytest.raises(
            callbacks.Preempted, match="after step 7: call the same command again to resume the run"
        ):
            callback.on_train_batch_start(trainer)
    finally:
        callback.teardown()
    assert calls == [["scontrol", "requeue", "42"]]
    assert signal.getsignal(number) == before


def test_a_process_that_was_not_told_saves_with_the_others_and_queues_nothing(calls):
    callback, trainer = callbacks.Preemption(), Trainer(first=False, told=True)
    end_of_pass(callback, trainer, 1)
    assert len(trainer.saved) == 1
    with pytest.raises(callbacks.Preempted):
        callback.on_train_batch_start(trainer)
    assert calls == []


def test_without_a_scheduler_the_run_just_ends(calls, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID")
    callback, trainer = callbacks.Preemption(), Trainer(told=True)
    end_of_pass(callback, trainer, 1)
    with pytest.raises(callbacks.Preempted):
        callback.on_train_batch_start(trainer)
    assert calls == []


def test_without_a_signal_nothing_happens(calls):
    callback, trainer = callbacks.Preemption(), Trainer()
    end_of_pass(callback, trainer, 1)
    callback.on_train_batch_start(trainer)
    assert trainer.saved == calls == []
