"""Whole runs as processes: killed and resumed, on two devices, sharded. Each gives what one process in one go
gives."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from monkeylib import inference
from monkeylib.training import logs

QUIET = "extends: smoke\ndescription: without dropout\nadapters: {dropout: 0.0}\n"
DDP = {"devices": 2, "strategy": "ddp", "per-device": 1}
NOISY = "extends: smoke\ndescription: with dropout\nadapters: {dropout: 0.3}\n"


def command(folder: Path, profile: str = QUIET, **options) -> list[str]:
    """`monkeylib train` in a folder of its own; 6 steps of 4 rows if not told otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "profile.yaml"
    file.write_text(profile)
    settings = {
        "profile": file,
        "out": folder / "run",
        "steps": 6,
        "batch-size": 4,
        "per-device": 2,
    } | options
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "monkeylib.cli", "train", *words]


def environment():
    left = ("PYTEST", "SLURM")
    return {k: v for k, v in os.environ.items() if not k.startswith(left)} | {"OMP_NUM_THREADS": "1"}


def train(folder: Path, profile: str = QUIET, **options) -> Path:
    done = subprocess.run(
        command(folder, profile, **options), env=environment(), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def losses(run: Path) -> list[float]:
    rows = logs.read_curves(run / "metrics.csv")
    return [row["loss"] for part in logs.PARTS for row in rows if row["part"] == part]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """One process, two passes per step."""
    return train(tmp_path_factory.mktemp("single"))


def test_two_processes_learn_what_one_does(single, tmp_path):
    double = train(tmp_path, **DDP)
    assert losses(double) == pytest.approx(losses(single), abs=1e-4)
    ours, theirs = weights(double), weights(single)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in theirs)


def test_two_shards_learn_what_one_process_does_and_are_put_together(single, tmp_path):
    sharded = train(tmp_path, **DDP | {"strategy": "fsdp"})
    assert losses(sharded) == pytest.approx(losses(single), abs=1e-4)
    ours, theirs = weights(sharded), weights(single)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in theirs)
    assert inference.load(sharded / "model").model.config.grids == [[2, 2]]


def test_two_shards_train_in_mixed_precision(single, tmp_path):
    """As the scripts for a cluster do."""
    mixed = QUIET + "training: {precision: bf16-mixed, checkpointing: true}\n"
    sharded = train(tmp_path, mixed, **DDP | {"strategy": "fsdp"})
    assert losses(sharded) == pytest.approx(losses(single), rel=0.02) and losses(sharded) != losses(single)
    assert {weight.dtype for weight in weights(sharded).values()} == {torch.float32}


def killed(folder: Path, number: int, **options) -> Path:
    """Start training, and send a signal to all its processes while some step runs."""
    process = subprocess.Popen(
        command(folder, NOISY, **options),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not any((folder / "run").glob("last.ckpt*")):
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.4))
    if process.poll() is None:
        os.killpg(process.pid, number)
    process.wait(300)
    return folder / "run"


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run in one go with dropout, of one process or of two."""
    return lambda **options: train(tmp_path_factory.mktemp("straight"), NOISY, steps=12, **options)


@pytest.fixture(scope="module")
def straight_single(straight):
    return straight()


def same(run, other):
    ours, theirs = weights(run), weights(other)
    assert {name for name in theirs if not torch.equal(ours[name], theirs[name])} == set()
    ours, theirs = (logs.read_curves(each / "metrics.csv") for each in (run, other))
    assert ours == theirs


def test_a_killed_run_ends_as_one_in_one_go(straight_single, tmp_path):
    """Bit for bit, with dropout, order of data and the optimiser's state."""
    run = killed(tmp_path, signal.SIGKILL, steps=12)
    assert not (run / "model").exists(), "it was killed before its end"
    same(train(tmp_path, NOISY, steps=12), straight_single)


def test_two_killed_processes_end_as_two_in_one_go(straight, tmp_path):
    run = killed(tmp_path, signal.SIGKILL, steps=12, **DDP)
    assert not (run / "model").exists()
    same(train(tmp_path, NOISY, steps=12, **DDP), straight(**DDP))


def test_two_killed_shards_end_as_two_in_one_go(straight, tmp_path):
    sharded = DDP | {"strategy": "fsdp"}
    run = killed(tmp_path, signal.SIGKILL, steps=12, **sharded)
    assert not (run / "model").exists()
    same(train(tmp_path, NOISY, steps=12, **sharded), straight(**sharded))


def test_a_preempted_run_saves_itself_between_two_steps(straight_single, tmp_path):
    run = killed(tmp_path, signal.SIGUSR1, steps=12)
    assert not (run / "model").exists() and (run / "last.ckpt").exists()
    same(train(tmp_path, NOISY, steps=12), straight_single)
