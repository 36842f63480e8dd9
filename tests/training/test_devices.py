"""Whole runs on two devices, sharded or not, learn what one process does."""

import subprocess
import sys

import pytest
import torch

from monkeylib import inference
from tests.support.training_processes import (
    DDP,
    FSDP,
    QUIET,
    STALLED,
    environment,
    losses,
    train,
    weights,
    words,
)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """One process, two passes per step."""
    return train(tmp_path_factory.mktemp("single"))


def agree(run, single):
    assert losses(run) == pytest.approx(losses(single), abs=1e-4)
    ours, theirs = weights(run), weights(single)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in theirs)


def test_two_processes_learn_what_one_does(single, tmp_path):
    """Called as people do: the first process starts the second one."""
    command = [sys.executable, "-m", "monkeylib.cli", *words(tmp_path, **DDP)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=STALLED)
    assert done.returncode == 0, done.stderr[-3000:]
    agree(tmp_path / "run", single)


def test_two_shards_learn_what_one_process_does_and_are_put_together(single, tmp_path):
    sharded = train(tmp_path, **FSDP)
    agree(sharded, single)
    assert inference.load_model(sharded / "model").model.config.grids == [[2, 2]]


def test_two_shards_train_in_mixed_precision(single, tmp_path):
    """As the scripts for a cluster do."""
    mixed = QUIET + "training: {precision: bf16-mixed, checkpointing: true}\n"
    sharded = train(tmp_path, mixed, **FSDP)
    assert losses(sharded) == pytest.approx(losses(single), rel=0.02) and losses(sharded) != losses(single)
    assert {weight.dtype for weight in weights(sharded).values()} == {torch.float32}
