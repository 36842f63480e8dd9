"""Whole runs of `monkeylib train` as processes, for the tests that compare and kill them."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file

from monkeylib.training import logs

QUIET = "extends: smoke\ndescription: without dropout\nadapters: {dropout: 0.0}\n"
NOISY = "extends: smoke\ndescription: with dropout\nadapters: {dropout: 0.3}\n"
DDP = {"devices": 2, "strategy": "ddp", "per-device": 1}
FSDP = DDP | {"strategy": "fsdp"}
STALLED = 300  # seconds after which a run stands still: on a busy machine they take one minute


def start(folder: Path, profile: str = QUIET, **options) -> subprocess.Popen:
    """`monkeylib train` in a folder and a session of its own; 6 steps of 4 rows if not told otherwise.

    What it says, and where its threads are when it is aborted, goes to a file in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "profile.yaml").write_text(profile)
    settings = {"profile": folder / "profile.yaml", "out": folder / "run", "steps": 6, "batch-size": 4}
    settings |= {"per-device": 2} | options
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    left = ("PYTEST", "SLURM")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left)}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    with (folder / "said.txt").open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "monkeylib.cli", "train", *words],
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def train(folder: Path, profile: str = QUIET, **options) -> Path:
    """Run it to its end. One that stands still is ended, told about, and called again, once: it goes on."""
    for attempt in (1, 2):
        process = start(folder, profile, **options)
        try:
            code = process.wait(STALLED)
            break
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGABRT)
            process.wait(60)
            said = (folder / "said.txt").read_text(errors="replace")
            assert attempt == 1, f"it stood still twice:\n{said}"
            warnings.warn(f"a run with {options} stood still for {STALLED} seconds:\n{said}", stacklevel=1)
    assert code == 0, (folder / "said.txt").read_text(errors="replace")[-3000:]
    return folder / "run"


def killed(folder: Path, number: int, **options) -> Path:
    """Start training with dropout, and send a signal to all its processes while some step runs."""
    process, run = start(folder, NOISY, **options), folder / "run"
    while process.poll() is None and not any(run.glob("last.ckpt*")):
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.4))
    if process.poll() is None:
        os.killpg(process.pid, number)
    process.wait(STALLED)
    assert not (run / "model").exists(), "it was killed before its end"
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Of the trained model."""
    return load_file(run / "model" / "model.safetensors")


def losses(run: Path) -> list[float]:
    """Of training, then of validation."""
    rows = logs.read_curves(run / "metrics.csv")
    return [row["loss"] for part in logs.PARTS for row in rows if row["part"] == part]


def same(run: Path, other: Path) -> None:
    """Weights and curves agree bit for bit."""
    ours, theirs = weights(run), weights(other)
    assert {name for name in theirs if not torch.equal(ours[name], theirs[name])} == set()
    ours, theirs = (logs.read_curves(each / "metrics.csv") for each in (run, other))
    assert ours == theirs
