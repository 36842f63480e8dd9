"""Profiles and mixtures that are broken or hostile, on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.support.hostile_yaml import BROKEN, MIXTURES, PROFILES, HostileYAML
from tests.torture import sandbox
from tests.torture.cases import Case, require_one_sentence

SECONDS = 20
MEMORY = 1 << 30


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for name, file in {**BROKEN, **PROFILES}.items():
        yield Case("profiles", name, partial(_refuse, name, file, ["train", "--steps", "1", "--profile"]))
    for name, file in {**BROKEN, **MIXTURES}.items():
        command = ["train", "--steps", "1", "--profile", "smoke", "--data"]
        yield Case("mixtures", name, partial(_refuse, name, file, command))


def _refuse(name: str, file: HostileYAML, command: list[str], folder: Path) -> str:
    path = file.write(folder)
    outcome = sandbox.run([*command, path.name], folder, SECONDS, memory=MEMORY)

    # Where a file is only missing, the sentence names that one.
    names = [] if name == "a missing file" else [".yaml"]
    sentence = require_one_sentence(outcome, *names)
    assert not (folder / "executed").exists(), "what it holds was executed"
    return sentence
