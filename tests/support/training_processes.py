"""Whole runs of `monkeylib train` as processes, for the tests that compare and kill them.

They are forked from a server that has imported what they need, which saves most of a short run's time. Two
that train together are told so by the environment, as torchrun does.
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
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only
from safetensors.torch import load_file

from monkeylib.cli import app
from monkeylib.training import callbacks

QUIET = "extends: smoke\ndescription: without dropout\nlora: {dropout: 0.0}\n"
NOISY = "extends: smoke\ndescription: with dropout\nlora: {dropout: 0.3}\n"
DDP = {"devices": 2, "strategy": "ddp", "micro-batch-size": 1}
FSDP = DDP | {"strategy": "fsdp"}
STALLED = 300  # seconds after which a run stands still: on a busy machine they take one minute

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["training_processes", "monkeylib.cli.train", "monkeylib.training.finetune"])


def words(folder: Path, profile: str = QUIET, **options) -> list[str]:
    """What `monkeylib` is called with: training in a folder of its own, 6 steps of 4 rows if not told
    otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "profile.yaml").write_text(profile)
    settings = {"profile": folder / "profile.yaml", "out": folder / "run", "steps": 6, "batch-size": 4}
    settings |= {"micro-batch-size": 2} | options
    return ["train", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


def environment(**more) -> dict[str, str]:
    """Of a run: nothing of the tests' own, nor of a scheduler that they run under."""
    left = ("PYTEST", "SLURM")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left)}
    return kept | {"OMP_NUM_THREADS": "1"} | more


def _run(said: Path, arguments: list[str], environ: dict[str, str]) -> None:
    """One process: in a session of its own, saying to a file what it says and, when it is aborted, where its
    threads are."""
    os.setsid()
    with said.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    os.environ.clear()
    os.environ.update(environ)
    torch.set_num_threads(1)
    rank_zero_only.rank = int(environ.get("RANK", 0))  # read when Lightning was imported
    sys.argv = ["monkeylib", *arguments]
    app.app(arguments)


def _ranks(count: int) -> list[dict[str, str]]:
    """What torchrun tells each of so many processes."""
    if count == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0"}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


class Run:
    """A run under way."""

    def __init__(self, folder: Path, profile: str = QUIET, **options) -> None:
        self.folder, arguments = folder, words(folder, profile, **options)
        self.processes = [
            SERVER.Process(target=_run, args=(self._said(place), arguments, environment(**rank)))
            for place, rank in enumerate(_ranks(options.get("devices", 1)))
        ]
        for process in self.processes:
            process.start()

    def _said(self, place: int) -> Path:
        return self.folder / f"said{place}.txt"

    def said(self) -> str:
        """By all of its processes."""
        return "\n".join(
            self._said(i).read_text(errors="replace")[-3000:] for i in range(len(self.processes))
        )

    def signal(self, number: int) -> None:
        """Send it to all processes, and to those that prepare their data."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def ended(self) -> bool:
        """Whether all processes have."""
        return all(process.exitcode is not None for process in self.processes)

    def wait(self) -> bool:
        """Until all have ended, or one has failed. Whether they did in time; else they are aborted."""
        end = time.monotonic() + STALLED
        while not self.ended() and time.monotonic() < end:
            time.sleep(0.02)
            if any(process.exitcode for process in self.processes):
                self.signal(signal.SIGKILL)
        in_time = self.ended()
        if not in_time:
            self.signal(signal.SIGABRT)
        for process in self.processes:
            process.join()
        return in_time


def train(folder: Path, profile: str = QUIET, **options) -> Path:
    """Run it to its end. One that stands still is ended, told about, and called again, once: it goes on."""
    run = Run(folder, profile, **options)
    if not run.wait():
        warnings.warn(f"a run with {options} stood still for {STALLED} s:\n{run.said()}", stacklevel=1)
        run = Run(folder, profile, **options)
        assert run.wait(), f"it stood still twice:\n{run.said()}"
    assert not any(process.exitcode for process in run.processes), run.said()
    return folder / "run"


def killed(folder: Path, number: int, **options) -> Path:
    """Start training with dropout, and send a signal to all its processes while some step runs."""
    run, out = Run(folder, NOISY, **options), folder / "run"
    while not run.ended() and not any(out.glob("last.ckpt*")):
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.4))
    run.signal(number)
    assert run.wait(), run.said()
    assert not (out / "model").exists(), "it was killed before its end"
    return out


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Of the trained model."""
    return load_file(run / "model" / "model.safetensors")


def losses(run: Path) -> list[float]:
    """Of training, then of validation."""
    rows = callbacks.read_curves(run / "metrics.csv")
    return [row["loss"] for part in callbacks.SPLITS for row in rows if row["part"] == part]


def same(run: Path, other: Path) -> None:
    """Weights and curves agree bit for bit."""
    ours, theirs = weights(run), weights(other)
    assert {name for name in theirs if not torch.equal(ours[name], theirs[name])} == set()
    ours, theirs = (callbacks.read_curves(each / "metrics.csv") for each in (run, other))
    assert ours == theirs
