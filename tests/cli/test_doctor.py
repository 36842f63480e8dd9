"""`monkeylib doctor`, and the options before a command."""

import json
import re
from importlib import metadata

from monkeylib import doctor


def test_diagnoses_are_lines_or_json(call):
    code, output, _ = call("doctor")
    assert code == 0
    for text in ("machine", "packages", "assets", "nano-monkey"):
        assert text in output
    assert re.fullmatch(r"Everything is here\.|The core is complete\. .*: [\w-]+.*", output.splitlines()[-1])

    # A remedy stands in a line of its own, below what it mends.
    lines = output.splitlines()
    remedies = [number for number, line in enumerate(lines) if line.lstrip().startswith("-> ")]
    assert remedies and all("->" not in lines[number - 1] for number in remedies)
    assert all(re.match(r"  (missing|note) ", lines[number - 1]) for number in remedies)

    code, output, _ = call("doctor", "--json")
    diagnoses = [json.loads(line) for line in output.splitlines()]
    assert code == 0 and {"area", "name", "status", "detail", "remedy"} == set(diagnoses[0])


def test_incomplete_core_ends_with_code_1(call, monkeypatch):
    missing = doctor.Diagnosis("packages", "core", "missing", "without torch", "pip install monkeylib")
    monkeypatch.setattr(doctor, "diagnose", lambda: [missing])
    code, output, _ = call("doctor")
    assert code == 1 and "pip install monkeylib" in output
    assert output.endswith("The core is not complete, so most commands fail: see its remedy above.\n")


def test_only_what_some_commands_need_is_called_optional(call, monkeypatch):
    missing = [
        doctor.Diagnosis(area, name, "missing", "gone", "mend it")
        for area, name in (("packages", "demo"), ("folders", "outputs"), ("assets", "yolox-nano"))
    ]
    monkeypatch.setattr(doctor, "diagnose", lambda: missing)
    code, output, _ = call("doctor")
    assert code == 0 and output.endswith(
        "The core is complete. Most commands need what is missing here, with remedies above: outputs. "
        "Optional parts are missing, with remedies above: demo, yolox-nano.\n"
    )


def test_version_and_short_help(call):
    assert call("--version")[:2] == (0, f"monkeylib {metadata.version('monkeylib')}\n")
    assert "Usage" in call("-h")[1] and "Usage" in call("answer", "-h")[1]
