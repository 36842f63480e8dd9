"""Checkpoints that are broken or hostile, by the commands that read one."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from monkeylib import profiles, resources
from monkeylib.profiles import build
from tests.support.hostile_checkpoints import HOSTILE, HostileCheckpoint
from tests.torture import sandbox
from tests.torture.cases import Case, require_one_sentence

SIGN = resources.samples() / "sign.png"
SECONDS = 60
MEMORY = 1 << 30

COMMANDS = {
    "answer": ["answer", SIGN, "what?", "--model", "model"],
    "train": ["train", "--profile", "smoke", "--steps", "1", "--base", "model", "--out", "run"],
}


def cases() -> Iterator[Case]:
    """Yield the cases."""
    # It is needed until the last case has ended, which is long after the last one was yielded.
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    sound = _write_sound_checkpoint(folder / "model")

    for name, checkpoint in HOSTILE.items():
        for command, arguments in COMMANDS.items():
            run = partial(_refuse, sound, checkpoint, arguments)
            yield Case("checkpoints", f"{name}, by `{command}`", run)


def _write_sound_checkpoint(folder: Path) -> Path:
    """Write a small model with everything that a checkpoint may have."""
    profile = profiles.load_profile("smoke")
    torch.manual_seed(0)
    processor = build.build_processor(profile)
    build.build_model(profile, processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _refuse(sound: Path, checkpoint: HostileCheckpoint, arguments: list[str | Path], folder: Path) -> str:
    checkpoint.write(sound, folder / "model")
    outcome = sandbox.run(arguments, folder, SECONDS, memory=MEMORY)

    sentence = require_one_sentence(outcome, "model")
    assert not (folder / "model" / "executed").exists(), "what it holds was executed"
    assert not (folder / "run").exists(), "it trained on it"
    return sentence
