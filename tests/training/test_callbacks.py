"""Callbacks and curves: preemption by a scheduler, and logs that survive a kill."""

import csv
import os
import signal
from types import SimpleNamespace

import pytest

from monkeylib.training import callbacks
from monkeylib.training.callbacks import ResumedCSVLogger, read_curves

# --- preemption


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
    monkeypatch.setattr(callbacks.subprocess, "run", lambda command, check: commands.append(command))
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    return commands


def end_micro_batch(callback, trainer, number, accumulation_steps=2):
    module = SimpleNamespace(accumulation_steps=accumulation_steps)
    callback.on_train_batch_end(trainer, module, None, None, number)


@pytest.mark.parametrize("number", callbacks.PREEMPTION_SIGNALS)
def test_signal_saves_after_the_step_and_requeues_the_job(scheduler_calls, number):
    previous_handler = signal.getsignal(number)
    callback, trainer = callbacks.Preemption(), StubTrainer()
    callback.on_fit_start()
    try:
        os.kill(os.getpid(), number)
        end_micro_batch(callback, trainer, 6)
        assert trainer.checkpoints == [], "in the middle of a step"

        end_micro_batch(callback, trainer, 7)
        assert trainer.checkpoints == [os.path.join("run", "last.ckpt")]
        assert scheduler_calls == []

        with pytest.raises(
            callbacks.Preempted, match="after step 7: call the same command again to resume the run"
        ):
            callback.on_train_batch_start(trainer)
    finally:
        callback.teardown()

    assert scheduler_calls == [["scontrol", "requeue", "42"]]
    assert signal.getsignal(number) == previous_handler


def test_process_without_a_signal_saves_with_the_others_and_requeues_nothing(scheduler_calls):
    callback, trainer = callbacks.Preemption(), StubTrainer(is_first=False, others_signalled=True)
    end_micro_batch(callback, trainer, 1)
    assert len(trainer.checkpoints) == 1

    with pytest.raises(callbacks.Preempted):
        callback.on_train_batch_start(trainer)
    assert scheduler_calls == []


def test_run_without_a_scheduler_is_not_requeued(scheduler_calls, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID")
    callback, trainer = callbacks.Preemption(), StubTrainer(others_signalled=True)
    end_micro_batch(callback, trainer, 1)

    with pytest.raises(callbacks.Preempted):
        callback.on_train_batch_start(trainer)
    assert scheduler_calls == []


def test_run_continues_without_a_signal(scheduler_calls):
    callback, trainer = callbacks.Preemption(), StubTrainer()
    end_micro_batch(callback, trainer, 1)
    callback.on_train_batch_start(trainer)
    assert trainer.checkpoints == scheduler_calls == []


# --- curves

VALIDATION_ROW = {"val/loss": 2.0, "val/exact": 0.5}
TRAINING_ROW = {"train/loss": 1.0, "train/exact": 0.25}


def open_logger(folder):
    return ResumedCSVLogger(folder, "", "", flush_logs_every_n_steps=1)


def test_resumed_log_keeps_rows_and_adds_columns(tmp_path):
    open_logger(tmp_path).log_metrics(VALIDATION_ROW, 0)

    resumed = open_logger(tmp_path)
    resumed.log_metrics(TRAINING_ROW, 1)
    resumed.log_metrics(VALIDATION_ROW | {"val/loss": 1.5}, 1)

    rows = read_curves(tmp_path / "metrics.csv")
    assert [(row["part"], row["step"], row["loss"]) for row in rows] == [
        ("train", 2, 1.0),
        ("val", 1, 2.0),
        ("val", 2, 1.5),
    ]


def test_kill_while_columns_are_added_loses_no_row(tmp_path, monkeypatch):
    logger = open_logger(tmp_path)
    logger.log_metrics(VALIDATION_ROW, 0)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(csv.DictWriter, "writerows", stop)
        logger.log_metrics(TRAINING_ROW, 1)
    assert [row["loss"] for row in read_curves(tmp_path / "metrics.csv")] == [2.0]

    open_logger(tmp_path).log_metrics(TRAINING_ROW, 1)
    assert [row["loss"] for row in read_curves(tmp_path / "metrics.csv")] == [1.0, 2.0]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_truncated_row_is_left_out(tmp_path):
    open_logger(tmp_path).log_metrics(VALIDATION_ROW, 0)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("0.4")

    open_logger(tmp_path).log_metrics(VALIDATION_ROW, 1)
    assert [row["step"] for row in read_curves(tmp_path / "metrics.csv")] == [1, 2]
