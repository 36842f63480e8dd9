"""The torture itself: what goes wrong in a case is seen, and counted."""

import os
import signal
import time
from functools import partial

import pytest

from tests.torture import __main__ as torture
from tests.torture import sandbox
from tests.torture.__main__ import write_table
from tests.torture.cases import Case, Skipped, require_one_sentence, run_cases


def _fail(folder=None):
    raise RuntimeError("broken")


def _skip(folder):
    raise Skipped("not here")


def _sleep():
    print("asleep", flush=True)
    time.sleep(60)


def _take_memory():
    bytearray(2 << 30)


def test_results_tell_right_from_wrong_and_leave_skipped_cases_out():
    cases = [
        Case("a", "right", lambda folder: "fine"),
        Case("a", "wrong", _fail),
        Case("b", "skipped", _skip),
    ]
    reported = []
    results = run_cases(cases, 2, reported.append)

    assert [(result.name, result.passed) for result in results] == [("right", True), ("wrong", False)]
    assert results == reported and results[1].outcome == "broken"


def test_table_keeps_the_areas_that_were_not_run(tmp_path):
    path = tmp_path / "torture.csv"
    write_table([{"area": "a", "cases": 2, "right": 1}, {"area": "b", "cases": 3, "right": 3}], path)
    write_table([{"area": "a", "cases": 2, "right": 2}], path)
    assert path.read_text().splitlines() == ["area,cases,right", "a,2,2", "b,3,3"]


def test_areas_are_run_and_counted(monkeypatch, tmp_path, capsys):
    cases = [Case("a", "right", str), Case("a", "wrong", _fail)]
    monkeypatch.setattr(torture, "AREAS", {"a": lambda arguments: cases})
    monkeypatch.setattr(torture, "TABLE", tmp_path / "torture.csv")
    monkeypatch.setattr(torture, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text("# monkeylib\n")
    monkeypatch.setattr("sys.argv", ["torture", "a"])

    with pytest.raises(SystemExit) as end:
        torture.main()

    assert end.value.code == 1
    assert (tmp_path / "torture.csv").read_text().splitlines() == ["area,cases,right", "a,2,1"]
    assert "WRONG  a: wrong: broken" in capsys.readouterr().out


def test_command_of_a_user_who_errs_is_one_sentence(tmp_path):
    outcome = sandbox.run(["answer", "gone.png", "what?"], tmp_path)
    assert "gone.png" in require_one_sentence(outcome, "gone.png")
    with pytest.raises(AssertionError, match="'other' is not in"):
        require_one_sentence(outcome, "other")


def test_traceback_is_seen(tmp_path):
    outcome = sandbox.run(_fail, tmp_path)
    assert outcome.code == 1 and outcome.has_traceback and outcome.last_line == "RuntimeError: broken"
    with pytest.raises(AssertionError, match="exit code 1"):
        require_one_sentence(outcome)


def test_signal_and_end_of_time_are_told_apart(tmp_path):
    running = sandbox.Command(_sleep, tmp_path)
    while "asleep" not in running.log.read_text():
        time.sleep(0.01)
    running.send(signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL

    assert sandbox.run(_sleep, tmp_path, 1).code is None


def test_memory_is_bounded(tmp_path):
    outcome = sandbox.run(_take_memory, tmp_path, memory=1 << 30)
    assert outcome.code == 1 and outcome.last_line == "MemoryError"


def test_working_folder_is_the_given_one(tmp_path):
    assert sandbox.run(partial(os.mkdir, "here"), tmp_path).code == 0
    assert (tmp_path / "here").is_dir()
