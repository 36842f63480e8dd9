"""A case of the torture: what was tried, what came of it, and whether that is right."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.torture.sandbox import Outcome

LENGTH = 8000  # of the outcome of a case that went wrong: stacks of processes that stand still need it


@dataclass(frozen=True)
class Case:
    """Something to try in an empty folder.

    Fields:
        area: what it is about.
        name: what is tried.
        run: tries it in the folder that it is given and returns what came of it, in a few words. It raises
            `AssertionError` if that is wrong.
        trials: how often it tries it.
    """

    area: str
    name: str
    run: Callable[[Path], str]
    trials: int = 1


@dataclass(frozen=True)
class Result:
    """What came of a case.

    Fields:
        area, name: as of the case.
        outcome: in a few words.
        passed: whether it is right.
        trials: as of the case.
    """

    area: str
    name: str
    outcome: str
    passed: bool
    trials: int = 1


class Skipped(Exception):
    """This machine cannot try the case."""


def run_cases(cases: Iterable[Case], workers: int, report: Callable[[Result], None]) -> list[Result]:
    """Run cases, some at a time, and report each when it is done. Skipped ones are left out."""
    results = []
    with ThreadPoolExecutor(workers) as pool:
        for result in pool.map(_run_case, cases):
            if result is not None:
                report(result)
                results.append(result)
    return results


def _run_case(case: Case) -> Result | None:
    with TemporaryDirectory(prefix="torture ä ") as folder:
        try:
            return Result(case.area, case.name, case.run(Path(folder)), True, case.trials)
        except Skipped as error:
            print(f"skipped: {case.area}, {case.name}: {error}")
            return None
        except Exception as error:  # a case that cannot be tried has failed
            reason = str(error) or traceback.format_exc().splitlines()[-2]
            return Result(case.area, case.name, " ".join(reason.split())[:LENGTH], False, case.trials)


def require_one_sentence(outcome: Outcome, *mentions: str) -> str:
    """Check that a command was refused in one sentence with exit code 2, and return the sentence.

    Args:
        outcome: of the command.
        mentions: texts that the sentence must hold.
    """
    assert outcome.code is not None, f"it did not end within {outcome.seconds:.0f} s"
    assert outcome.is_one_sentence, f"exit code {outcome.code}: {outcome.output[-400:]}"
    sentence = next(line for line in outcome.output.splitlines() if line.startswith("monkeylib: "))
    for mention in mentions:
        assert mention in sentence, f"{mention!r} is not in: {sentence}"
    return sentence


def require_success(outcome: Outcome, code: int = 0) -> str:
    """Check that a command was done, with its exit code and without a traceback; return its last line."""
    assert outcome.code is not None, f"it did not end within {outcome.seconds:.0f} s"
    assert outcome.code == code, f"exit code {outcome.code}: {outcome.output[-400:]}"
    assert not outcome.has_traceback, outcome.output[-400:]
    return outcome.last_line
