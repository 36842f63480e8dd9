"""The torture itself: what goes wrong in a case is seen, and counted."""

import os
import signal
import time
from functools import partial

import pytest

from tests.torture import __main__ as torture
from tests.torture import kills, sandbox, starts
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
    _redirect(monkeypatch, tmp_path, cases)

    assert _main(monkeypatch) == 1
    assert (tmp_path / "torture.csv").read_text().splitlines() == ["area,cases,right", "a,2,1"]
    assert "WRONG  a: wrong: broken" in capsys.readouterr().out


def test_resumed_torture_tries_only_what_was_not_right(monkeypatch, tmp_path, capsys):
    cases = [Case("a", "right", str, trials=10), Case("a", "wrong", _fail)]
    _redirect(monkeypatch, tmp_path, cases)
    assert _main(monkeypatch) == 1
    capsys.readouterr()

    # Killed while it noted an outcome, and called with more cases.
    with (tmp_path / "outcomes" / "a.jsonl").open("a") as file:
        file.write('{"area": "a", "na')
    cases[1:] = [Case("a", "wrong", str), Case("a", "new", str, trials=5)]
    assert _main(monkeypatch, "--resume") == 0
    assert "a: right" not in capsys.readouterr().out
    assert (tmp_path / "torture.csv").read_text().splitlines() == ["area,cases,right", "a,16,16"]

    assert _main(monkeypatch) == 0
    assert "a: right" in capsys.readouterr().out


def _redirect(monkeypatch, tmp_path, cases):
    monkeypatch.setattr(torture, "AREAS", {"a": lambda arguments: cases})
    monkeypatch.setattr(torture, "TABLE", tmp_path / "torture.csv")
    monkeypatch.setattr(torture, "OUTCOMES", tmp_path / "outcomes")
    monkeypatch.setattr(torture, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text("# monkeylib\n")


def _main(monkeypatch, *options):
    monkeypatch.setattr("sys.argv", ["torture", "a", *options])
    with pytest.raises(SystemExit) as end:
        torture.main()
    return end.value.code


def test_kills_are_cases_of_ten_that_name_their_seed():
    cases = list(kills.cases(25, seed=7))
    assert [case.trials for case in cases] == [10, 10, 5]
    assert cases[2].name == "5 kills of captions, seed 7, number 2"


def test_process_of_a_start_that_fails_is_a_wrong_case(monkeypatch, tmp_path):
    monkeypatch.setattr(starts, "DDP", {"devices": 2, "strategy": "ddp", "micro-batch-size": 7})
    (result,) = run_cases(starts.cases(1), 1, lambda result: None)
    assert not result.passed and "exit codes" in result.outcome


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
