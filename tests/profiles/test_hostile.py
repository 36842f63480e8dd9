"""Broken and hostile profiles and mixtures: one sentence with file and line, exit code 2, within bounds."""

import resource
import sys
import time

import pytest

from monkeylib import profiles
from monkeylib.cli import app
from monkeylib.data import mixture
from tests.support.hostile_yaml import BROKEN, MIXTURES, PROFILES, HostileYAML

READERS = {
    "profile": ({**BROKEN, **PROFILES}, lambda path: profiles.load_profile(str(path))),
    "mixture": ({**BROKEN, **MIXTURES}, mixture.load_mixture),
}
CASES = [(kind, name) for kind, (cases, _) in READERS.items() for name in cases]

# Of one file: more than any shipped one takes by a factor of ten, far less than a bomb would.
MOST_SECONDS, MOST_KILOBYTES = 3, 100_000


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind}: {name}" for kind, name in CASES])
def test_hostile_file_is_refused_in_one_sentence(kind, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases, read = READERS[kind]
    case: HostileYAML = cases[name]
    path = case.write(tmp_path)

    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises((ValueError, FileNotFoundError), match=case.sentence) as raised:
        read(path)
    seconds = time.process_time() - start

    message = str(raised.value)
    assert "\n" not in message and "pydantic" not in message and len(message) < 600
    assert ".yaml" in message or name == "a missing file"
    if case.line is not None:
        assert f".yaml, line {case.line}" in message

    assert seconds < MOST_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MOST_KILOBYTES
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("arguments", "case"),
    [
        (["train", "--profile", "hostile.yaml"], BROKEN["a tab"]),
        (["train", "--profile", "hostile.yaml"], PROFILES["extends itself"]),
        (["reproduce", "--profile", "hostile.yaml"], BROKEN["a bomb of aliases"]),
        (["train", "--profile", "smoke", "--data", "hostile.yaml"], BROKEN["400,000 levels"]),
        (["data", "inspect", "hostile.yaml", "--profile", "smoke"], BROKEN["a python object"]),
        (["data", "inspect", "mixture.yaml", "--profile", "hostile.yaml"], BROKEN["an undefined alias"]),
    ],
)
def test_command_ends_with_one_sentence_and_code_2(arguments, case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "out"))
    monkeypatch.setattr(sys, "argv", ["monkeylib", *arguments])
    case.write(tmp_path)

    with pytest.raises(SystemExit) as end:
        app.main()

    errors = capsys.readouterr().err
    assert end.value.code == 2
    assert errors.startswith("monkeylib: ") and errors.count("\n") == 1 and "hostile.yaml" in errors
    assert not (tmp_path / "out").exists()


def test_line_of_a_field_is_that_of_the_file_which_states_it(tmp_path):
    (tmp_path / "parent.yaml").write_text("extends: smoke\ntraining:\n  lr: 1.0e-3\n  warmup: -1\n")
    (tmp_path / "child.yaml").write_text("extends: parent.yaml\n\ntraining: {lr: 2.0e-3}\n")

    with pytest.raises(ValueError, match="parent.yaml, line 4, training.warmup: "):
        profiles.load_profile(str(tmp_path / "child.yaml"))

    (tmp_path / "parent.yaml").write_text("extends: smoke\ntraining: {lr: 1.0e-3}\n")
    assert profiles.load_profile(str(tmp_path / "child.yaml")).training.lr == 2e-3
