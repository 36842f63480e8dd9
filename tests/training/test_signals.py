"""Signals to a training run: it completes the running step, saves it, and ends."""

import os
import signal
import subprocess
from types import SimpleNamespace

import pytest
from lightning.pytorch.plugins.environments import LightningEnvironment

from monkeylib import profiles, signals
from monkeylib.training import finetune
from monkeylib.training import signals as training_signals
from monkeylib.training.checkpointing import SaveCheckpoints
from monkeylib.training.curves import read_curves
from monkeylib.training.module import MonkeyTraining
from monkeylib.training.signals import StopOnSignal
from tests.support.training_processes import (
    DDP,
    NOISY,
    TrainingRun,
    wait_for_checkpoint,
)

SMOKE = profiles.load_profile("smoke").with_training(steps=4, batch_size=2, micro_batch_size=1)

each_signal = pytest.mark.parametrize("number", signals.NUMBERS, ids=signals.name)


# --- one process


def signal_in_step(monkeypatch, number, step, times=1):
    """Send a signal to this process within the first micro-batch of a step."""
    training_step = MonkeyTraining.training_step

    def signalled_step(module, batch, batch_idx):
        if module.trainer.global_step == step - 1 and batch_idx % module.accumulation_steps == 0:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return training_step(module, batch, batch_idx)

    monkeypatch.setattr(MonkeyTraining, "training_step", signalled_step)


def test_running_step_is_completed_saved_and_said(monkeypatch, tmp_path):
    previous = signal.getsignal(signal.SIGTERM)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with monkeypatch.context() as patched:
        signal_in_step(patched, signal.SIGTERM, step=2)
        with pytest.raises(signals.Interrupted) as interrupted:
            finetune.run(SMOKE, tmp_path / "run", progress=False)

    sentence = "interrupted by SIGTERM after step 2, which is saved: run it again to go on from there"
    assert str(interrupted.value) == sentence
    assert interrupted.value.code == signals.EXIT_SAVED
    assert signal.getsignal(signal.SIGTERM) == previous

    # Step 2 is in the curves, and not repeated.
    assert steps_of(tmp_path) == [1, 2]
    finetune.run(SMOKE, tmp_path / "run", progress=False)
    assert steps_of(tmp_path) == [1, 2, 3, 4]


def steps_of(folder):
    rows = read_curves(folder / "run" / "metrics.csv")
    return [row["step"] for row in rows if row["part"] == "train"]


def test_signal_in_the_last_step_lets_the_run_finish(monkeypatch, tmp_path):
    signal_in_step(monkeypatch, signal.SIGTERM, step=4)
    model = finetune.run(SMOKE, tmp_path / "run", progress=False)
    assert (model / "model.safetensors").exists()


def test_further_signal_of_a_scheduler_does_not_end_at_once(monkeypatch, tmp_path):
    signal_in_step(monkeypatch, signal.SIGTERM, step=2, times=3)
    with pytest.raises(signals.Interrupted, match="after step 2, which is saved"):
        finetune.run(SMOKE, tmp_path / "run", progress=False)


class Ended(BaseException):
    """Stands for the end of this process."""


@pytest.mark.parametrize("is_saved", [True, False], ids=["saved", "nothing saved"])
@pytest.mark.parametrize("first", signals.NUMBERS, ids=signals.name)
def test_second_interrupt_ends_all_processes_at_once(monkeypatch, capfd, tmp_path, first, is_saved):
    if is_saved:
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "step-000001.ckpt").touch()

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(training_signals.os, "_exit", end)
    trainer, killed = StubTrainer(), []
    trainer.default_root_dir = tmp_path
    trainer.strategy.launcher = SimpleNamespace(kill=killed.append)

    with StopOnSignal() as callback, pytest.raises(Ended) as ended:
        callback.setup(trainer, None, "fit")
        os.kill(os.getpid(), first)
        assert killed == []
        os.kill(os.getpid(), signal.SIGINT)

    assert ended.value.args == (130,)
    assert killed == [signal.SIGKILL]
    said = "monkeylib: ended at once"
    if is_saved:
        said += "; run it again to go on from the last checkpoint"
    assert capfd.readouterr().err.splitlines()[-1] == said


# --- SLURM and several processes


class StubCheckpoints(SaveCheckpoints):
    """Notes that the step is saved."""

    def __init__(self, calls):
        self.calls = calls

    def save(self, trainer):
        self.calls.append("save")


class StubTrainer:
    """What the callback uses of a trainer.

    Args:
        is_first: whether this is the first process of the run.
        others_signalled: whether another process has got a signal.
    """

    global_step = 7

    def __init__(self, is_first=True, others_signalled=False, environment=None):
        self.calls = []
        self.callbacks = [StubCheckpoints(self.calls)]
        self.is_global_zero = is_first
        self.strategy = SimpleNamespace(
            reduce_boolean_decision=lambda signalled, all: signalled or others_signalled,
            barrier=lambda: self.calls.append("barrier"),
            cluster_environment=environment,
        )


@pytest.fixture()
def slurm(monkeypatch):
    """Stand-in for SLURM's scontrol: its calls, and what it answers."""
    state = SimpleNamespace(calls=[], error=None)

    def run(command, **options):
        state.calls.append(command)
        state.options = options
        if state.error:
            raise state.error

    monkeypatch.setattr(training_signals.subprocess, "run", run)
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    return state


def stop_after_step(trainer, number=None, accumulation_steps=2):
    """Return the exception that ends a run after a step with a signal, None without."""
    module = SimpleNamespace(accumulation_steps=accumulation_steps)
    with StopOnSignal() as callback:
        if number:
            os.kill(os.getpid(), number)
        callback.on_train_batch_end(trainer, module, None, None, 6)
        assert trainer.calls == [], "in the middle of a step"
        callback.on_train_batch_end(trainer, module, None, None, 7)

        try:
            callback.on_train_batch_start(trainer)
        except signals.Interrupted as error:
            return error
    return None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=signals.name)
def test_job_is_requeued_once_all_processes_have_saved(slurm, number):
    trainer = StubTrainer()
    error = stop_after_step(trainer, number)
    assert slurm.calls == [["scontrol", "requeue", "42"]]
    assert trainer.calls == ["save", "barrier"]
    assert str(error).endswith("; job 42 is requeued")


def test_silent_controller_is_not_waited_for(slurm):
    """The time before SLURM kills a job is short."""
    stop_after_step(StubTrainer(), signal.SIGTERM)
    assert slurm.options["timeout"] == 60


def test_job_of_a_user_who_interrupts_is_not_requeued(slurm):
    assert "requeue" not in str(stop_after_step(StubTrainer(), signal.SIGINT))
    assert slurm.calls == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError("scontrol"), "there is no scontrol here"),
        (
            subprocess.CalledProcessError(1, "scontrol", stderr="Job\n expired\n"),
            "Job expired",
        ),
        (subprocess.TimeoutExpired("scontrol", 60), "scontrol has not answered for 60 seconds"),
    ],
)
def test_job_that_cannot_be_requeued_is_said(slurm, error, reason):
    slurm.error = error
    sentence = str(stop_after_step(StubTrainer(), signal.SIGTERM))
    assert "job 42 was not requeued" in sentence
    assert reason in sentence
    assert "\n" not in sentence


def test_process_without_a_signal_saves_with_the_others_and_requeues_nothing(slurm):
    trainer = StubTrainer(is_first=False, others_signalled=True)
    error = stop_after_step(trainer)
    assert trainer.calls == ["save", "barrier"]
    assert (str(error), error.code) == ("", signals.EXIT_SAVED)
    assert slurm.calls == []


def test_first_process_requeues_for_a_signal_to_another_one(slurm):
    sentence = str(stop_after_step(StubTrainer(others_signalled=True)))
    assert "a signal to another process after step 7" in sentence
    assert slurm.calls == [["scontrol", "requeue", "42"]]


def test_process_that_lightning_has_started_does_not_fail(slurm):
    # Lightning kills the first process when another one ends with an error.
    trainer = StubTrainer(is_first=False, others_signalled=True, environment=LightningEnvironment())
    assert stop_after_step(trainer).code == 0


def test_run_continues_without_a_signal(slurm):
    trainer = StubTrainer()
    assert stop_after_step(trainer) is None
    assert trainer.calls == slurm.calls == []


# --- processes and their data loaders


def start(folder, **options):
    """Start a run that lasts for long, and return it when it has saved its first checkpoint."""
    run = TrainingRun(folder, NOISY, steps=500, **options)
    wait_for_checkpoint(run, folder / "run")
    return run


@each_signal
def test_signal_to_the_process_and_its_data_loaders_is_saved_and_said(tmp_path, number):
    run = start(tmp_path)
    run.send_signal(number)
    assert run.wait(), run.output()
    assert [process.exitcode for process in run.processes] == [signals.EXIT_SAVED], run.output()
    assert run.output().count("monkeylib: interrupted by") == 1
    assert f"interrupted by {signals.name(number)} after step" in run.output()
    for text in ("Traceback", "DataLoader worker", "Error"):
        assert text not in run.output()
    assert list((tmp_path / "run").rglob("*.ckpt"))


def test_signal_to_one_of_two_processes_stops_both_at_the_same_step(tmp_path):
    run = start(tmp_path, **DDP)
    os.kill(run.processes[1].pid, signal.SIGTERM)
    assert run.wait(), run.output()
    assert [process.exitcode for process in run.processes] == [signals.EXIT_SAVED] * 2, run.output()
    assert run.output().count("monkeylib: interrupted by a signal to another process after step") == 1
