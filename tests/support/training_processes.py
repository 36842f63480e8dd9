"""Runs of `monkeylib train` as processes, for the tests that compare and kill them.

They are forked from a server that has imported what they need, which saves most of a short run's time.
Processes that train together get the environment variables that torchrun would set.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from monkeylib import signals
from monkeylib.cli import app
from monkeylib.training import batches, curves, finetune, module
from monkeylib.training.callbacks import MemoryUse, SampleAnswers

QUIET = "extends: smoke\ndescription: without dropout\nlora: {dropout: 0.0}\n"
NOISY = "extends: smoke\ndescription: with dropout\nlora: {dropout: 0.3}\n"
DDP = {"devices": 2, "strategy": "ddp", "micro-batch-size": 1}
FSDP = DDP | {"strategy": "fsdp"}
HANG_SECONDS = 300  # after which a run counts as hanging; on a busy machine runs take one minute

COMPLETE_RUN = MemoryUse.on_train_start, SampleAnswers, module.VALIDATION_BATCHES, batches.build_dataloader

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "tests.support.training_processes",
        "monkeylib.cli.train",
        "monkeylib.training.finetune",
        "monkeylib.data.synthetic",
        "torch.utils.tensorboard",
        "omegaconf",
    ]
)


def command_arguments(folder: Path, profile: str = QUIET, **options) -> list[str]:
    """Return the arguments of `monkeylib` for a run in `folder`: by default 6 steps of 4 examples."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "profile.yaml").write_text(profile)

    settings = {"profile": folder / "profile.yaml", "out": folder / "run", "steps": 6, "batch-size": 4}
    settings |= {"micro-batch-size": 2} | options
    arguments = ["train"]
    for name, value in settings.items():
        arguments += [f"--{name}", str(value)]
    return arguments


def run_environment(**variables) -> dict[str, str]:
    """Return the environment of a run, without variables of the tests or of a scheduler around them."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "SLURM"))
    }
    return inherited | {"OMP_NUM_THREADS": "1"} | variables


def shorten_runs(replace: Callable[[object, str, object], None], *, workers: bool = False) -> None:
    """Have training runs of this process leave the memory of a step unmeasured, and validate little.

    Args:
        replace: sets an attribute, such as `setattr`.
        workers: prepare data in other processes, as runs of users do. Starting and ending these takes a third
            of the time of a tiny run.
    """
    replace(MemoryUse, "on_train_start", lambda *_: None)
    replace(finetune, "SampleAnswers", partial(SampleAnswers, count=1))
    replace(module, "VALIDATION_BATCHES", 2)
    if not workers:
        replace(module, "build_dataloader", _prepare_in_process)


def complete_runs(replace: Callable[[object, str, object], None]) -> None:
    """Have training runs of this process do everything again."""
    start, answers, num_batches, build_dataloader = COMPLETE_RUN
    replace(MemoryUse, "on_train_start", start)
    replace(finetune, "SampleAnswers", answers)
    replace(module, "VALIDATION_BATCHES", num_batches)
    replace(module, "build_dataloader", build_dataloader)


def _prepare_in_process(micro_batches: batches.MicroBatches, **_) -> DataLoader:
    return batches.build_dataloader(micro_batches, workers=0)


def _run(log: Path, arguments: list[str], environment: dict[str, str], workers: bool) -> None:
    """Run the command line in this process, with its output in a file.

    The process leads a new session, so that a signal reaches its data workers too. When it is aborted, the
    stacks of its threads go to the file.
    """
    os.setsid()
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)

    faulthandler.enable()

    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    rank_zero_only.rank = int(environment.get("RANK", 0))  # read when Lightning was imported
    shorten_runs(setattr, workers=workers)
    sys.argv = ["monkeylib", *arguments]
    app.main()


def _torchrun_variables(count: int) -> list[dict[str, str]]:
    """Return the variables that torchrun sets for each of `count` processes."""
    if count == 1:
        return [{}]

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0"}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


class TrainingRun:
    """Processes of a run that has been started.

    Args:
        folder: folder of the run and its profile.
        profile: YAML of the profile.
        workers: have the processes start others that prepare their data, as those of users do.
        options: of the command line.
    """

    def __init__(self, folder: Path, profile: str = QUIET, *, workers: bool = True, **options) -> None:
        arguments = command_arguments(folder, profile, **options)
        self.processes = []
        self.logs = []
        self.start_time = time.monotonic()
        for rank, variables in enumerate(_torchrun_variables(options.get("devices", 1))):
            log = folder / f"output-{rank}.txt"
            environment = run_environment(**variables)
            process = SERVER.Process(target=_run, args=(log, arguments, environment, workers))
            process.start()
            self.logs.append(log)
            self.processes.append(process)

    def seconds(self) -> float:
        """Return the seconds since it was started."""
        return time.monotonic() - self.start_time

    def output(self) -> str:
        """Return the end of the output of each process."""
        return "\n".join(log.read_text(errors="replace")[-3000:] for log in self.logs)

    def send_signal(self, number: int) -> None:
        """Send a signal to all processes and to those that prepare their data."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def has_ended(self) -> bool:
        """Return whether all processes have ended."""
        return all(process.exitcode is not None for process in self.processes)

    def wait(self) -> bool:
        """Wait until all processes have ended; kill the others when one fails, abort all when they hang.

        Returns:
            Whether they ended in time.
        """
        deadline = time.monotonic() + HANG_SECONDS
        while not self.has_ended() and time.monotonic() < deadline:
            time.sleep(0.02)
            if any(process.exitcode not in (None, 0, signals.EXIT_SAVED) for process in self.processes):
                self.send_signal(signal.SIGKILL)

        ended_in_time = self.has_ended()
        if not ended_in_time:
            self.send_signal(signal.SIGABRT)
        for process in self.processes:
            process.join()
        return ended_in_time


def train(folder: Path, profile: str = QUIET, *, workers: bool = False, **options) -> Path:
    """Train to the end and return the run folder. A run that hangs is resumed once, with a warning."""
    run = TrainingRun(folder, profile, workers=workers, **options)
    if not run.wait():
        warnings.warn(f"a run with {options} hung for {HANG_SECONDS} s:\n{run.output()}", stacklevel=1)
        run = TrainingRun(folder, profile, workers=workers, **options)
        assert run.wait(), f"it hung twice:\n{run.output()}"

    assert not any(process.exitcode for process in run.processes), run.output()

    return folder / "run"


def wait_for_checkpoint(
    run: TrainingRun, folder: Path, earlier: Collection[Path] = (), count: int = 1
) -> None:
    """Wait until a run has saved some checkpoints besides earlier ones, or has ended."""
    seen: set[Path] = set()
    while not run.has_ended() and len(seen) < count:
        # The names of steps alone: a file that is being written has one of its own before.
        seen |= {path for path in folder.rglob("step-*.ckpt") if path not in earlier}
        time.sleep(0.01)


def train_and_signal(
    folder: Path, number: int, profile: str = NOISY, most_checkpoints: int = 3, **options
) -> Path:
    """Train with dropout, and send a signal to all processes some time after some checkpoints are saved.

    Args:
        folder: folder of the run and its profile.
        number: the signal.
        profile: YAML of the profile.
        most_checkpoints: the signal comes after one to so many of them, anywhere in the steps that follow.
        options: of the command line.
    """
    run_folder = folder / "run"
    earlier = set(run_folder.rglob("*.ckpt*"))
    run = TrainingRun(folder, profile, **options)
    wait_for_checkpoint(run, run_folder, earlier, random.randint(1, most_checkpoints))
    time.sleep(random.uniform(0, 0.2))  # a step with its validation and checkpoint takes about as long
    run.send_signal(number)

    assert run.wait(), run.output()
    assert not (run_folder / "model").exists(), "it ended before the signal"

    return run_folder


def read_weights(run: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the trained model."""
    return load_file(run / "model" / "model.safetensors")


def read_losses(run: Path, splits: Collection[str] = curves.SPLITS) -> list[float]:
    """Return the losses of training, then of validation."""
    rows = curves.read_curves(run / "metrics.csv")
    return [row["loss"] for part in splits for row in rows if row["part"] == part]


def assert_same_run(run: Path, reference: Path) -> None:
    """Check that weights and curves agree bit for bit."""
    weights, reference_weights = read_weights(run), read_weights(reference)
    differing = {name for name, weight in reference_weights.items() if not torch.equal(weights[name], weight)}
    assert differing == set()
    assert curves.read_curves(run / "metrics.csv") == curves.read_curves(reference / "metrics.csv")
