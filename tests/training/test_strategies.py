"""Runs on two devices, sharded or not, learn what one process learns."""

import signal
import subprocess
import sys

import pytest
import torch

from monkeylib import inference
from monkeylib.training import curves, strategies
from tests.support.training_processes import (
    DDP,
    FSDP,
    HANG_SECONDS,
    QUIET,
    command_arguments,
    read_losses,
    read_weights,
    run_environment,
    train,
    train_and_signal,
)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Return the folder of a run of one process with two micro-batches per step."""
    return train(tmp_path_factory.mktemp("single"))


def assert_close_runs(run, reference, splits=curves.SPLITS):
    assert read_losses(run, splits) == pytest.approx(read_losses(reference, splits), abs=1e-4)
    weights, reference_weights = read_weights(run), read_weights(reference)
    assert weights.keys() == reference_weights.keys()
    for name, weight in reference_weights.items():
        assert torch.allclose(weights[name], weight, atol=1e-4), name


def test_two_processes_learn_what_one_learns(single, tmp_path):
    """As on the command line, where the first process starts the second one."""
    command = [sys.executable, "-m", "monkeylib", *command_arguments(tmp_path, **DDP)]
    process = subprocess.run(
        command, env=run_environment(), capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert process.returncode == 0, process.stderr[-3000:]
    # It validates on more batches than the runs of tests do.
    assert_close_runs(tmp_path / "run", single, splits=["train"])


@pytest.mark.parametrize("several", [DDP, FSDP], ids=["ddp", "fsdp"])
def test_run_goes_on_with_another_number_of_devices(single, tmp_path, several):
    """On one device, then on two, and on one again."""
    one = several | {"devices": 1}
    for options in (one, several):
        train_and_signal(tmp_path, signal.SIGUSR1, QUIET, most_checkpoints=1, **options)

    resumed = train(tmp_path, workers=True, **one)
    assert read_losses(resumed) == pytest.approx(read_losses(single), abs=1e-5)
    assert_close_runs(resumed, single)


def test_two_shards_learn_what_one_process_learns_and_are_joined(single, tmp_path):
    sharded = train(tmp_path, **FSDP)
    assert_close_runs(sharded, single)
    assert inference.load_model(sharded / "model").model.config.grids == [[2, 2]]


def test_two_shards_train_in_mixed_precision(single, tmp_path):
    """As the scripts in cluster/ do."""
    profile = QUIET + "training: {precision: bf16-mixed, checkpointing: true}\n"
    sharded = train(tmp_path, profile, **FSDP)

    losses = read_losses(sharded)
    assert losses == pytest.approx(read_losses(single), rel=0.02)
    assert losses != read_losses(single)
    assert {weight.dtype for weight in read_weights(sharded).values()} == {torch.float32}


def test_files_put_into_a_sharded_checkpoint_stay(tmp_path):
    """When its step is saved again, also after a kill between the two moves."""

    def write(folder, content):
        folder.mkdir()
        for name in ("__0_0.distcp", ".metadata", "meta.pt", "digests.json"):
            (folder / name).write_text(content)
        return folder

    path = write(tmp_path / "step-000001.ckpt", "first")
    previous = write(tmp_path / ".step-000001.ckpt.previous", "before")
    (path / "notes.txt").write_text("mine")
    (previous / "older.txt").write_text("mine")

    strategies._replace_folder(write(tmp_path / ".step-000001.ckpt.partial", "second"), path)
    contents = {file.name: file.read_text() for file in path.iterdir()}
    own = dict.fromkeys(("__0_0.distcp", ".metadata", "meta.pt", "digests.json"), "second")
    assert contents == own | {"notes.txt": "mine", "older.txt": "mine"}
    assert list(tmp_path.iterdir()) == [path]
