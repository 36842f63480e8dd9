"""Processes: signals, two at once, and surroundings that are not as usual."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from monkeylib import resources
from monkeylib.cli import app
from tests.torture import sandbox
from tests.torture.cases import Case, require_one_sentence, require_success
from tests.torture.kills import KINDS, Kind

BASE = resources.models() / "nano-base"
SIGN = resources.samples() / "sign.png"
QUESTION = "what does the white sign say?"

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP, signal.SIGKILL)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for kind in KINDS:
        for number in SIGNALS:
            for group in (False, True):
                receiver = "the group" if group else "the process"
                name = f"{number.name} to {receiver} of {kind.name}"
                yield Case("signals", name, partial(_signal, kind, number, group))
        yield Case("two processes", f"{kind.name} twice into one folder", partial(_twice, kind))

    for name, surround in SURROUNDINGS.items():
        yield Case("surroundings", name, partial(_surrounded, surround))
    for name, arguments in WRONG_CALLS.items():
        yield Case("surroundings", name, partial(_wrong, arguments))


# --- signals


def _signal(kind: Kind, number: signal.Signals, group: bool, folder: Path) -> str:
    """Signal a run in its middle, call it again, and compare it with an uninterrupted one."""
    for name in ("reference", "run"):
        (folder / name).mkdir()
    reference = sandbox.run(kind.prepare(folder / "reference"), folder / "reference")
    require_success(reference, kind.done)

    command = kind.prepare(folder / "run")
    running = sandbox.Command(command, folder / "run")
    time.sleep(reference.seconds * 0.6)
    if running.has_ended():
        return "it had ended before"
    running.send(number, group)
    interrupted = running.wait(60)

    assert interrupted.code is not None, "it did not end within a minute"
    assert not interrupted.has_traceback, interrupted.output[-400:]
    if number == signal.SIGKILL:
        assert interrupted.code in (-signal.SIGKILL, kind.done), f"exit code {interrupted.code}"
    elif interrupted.code == kind.done:
        # It was just about to end, and did.
        assert not list(kind.compare(folder / "run", folder / "reference")), (
            "exit code 0, but it is not complete"
        )

    require_success(sandbox.run(command, folder / "run"), kind.done)
    differences = list(kind.compare(folder / "run", folder / "reference"))
    assert not differences, "; ".join(differences)
    return f"exit code {interrupted.code}, then as uninterrupted"


def _twice(kind: Kind, folder: Path) -> str:
    """Start a run twice: one of them ends well, the other one in a sentence."""
    command = kind.prepare(folder)
    first = sandbox.Command(command, folder)
    second = sandbox.Command(command, folder)
    outcomes = [first.wait(), second.wait()]

    for outcome in outcomes:
        assert not outcome.has_traceback or "in use by" in outcome.output, outcome.output[-400:]
    codes = [outcome.code for outcome in outcomes]
    assert kind.done in codes, codes
    if codes == [kind.done] * 2:
        return "one after the other"
    refused = outcomes[1 - codes.index(kind.done)]
    assert "in use by" in refused.output, refused.output[-300:]
    return "the second is told who is there"


# --- surroundings


def _surrounded(surround: Callable[[Path], None], folder: Path) -> str:
    outcome = sandbox.run(partial(_answer_surrounded, surround, folder), folder, memory=None)
    assert outcome.code is not None, "it did not end"
    assert not outcome.has_traceback, outcome.output[-400:]
    assert outcome.code in (0, 1, 2), f"exit code {outcome.code}: {outcome.output[-300:]}"
    if outcome.code == 2:
        return require_one_sentence(outcome)
    return f"works: {outcome.last_line}"


def _answer_surrounded(surround: Callable[[Path], None], folder: Path) -> None:
    surround(folder)
    sys.argv = ["monkeylib", "answer", str(SIGN), QUESTION, "--model", str(BASE)]
    app.main()


def _variables(**values: str | None) -> Callable[[Path], None]:
    return partial(_set_variables, values)


def _set_variables(values: dict[str, str | None], folder: Path) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _in_folder(name: str) -> Callable[[Path], None]:
    return partial(_change_folder, name)


def _change_folder(name: str, folder: Path) -> None:
    (folder / name).mkdir(parents=True)
    os.chdir(folder / name)


def _folder_is_gone(folder: Path) -> None:
    (folder / "gone").mkdir()
    os.chdir(folder / "gone")
    shutil.rmtree(folder / "gone")


def _limit(kind: int, value: int, folder: Path) -> None:
    resource.setrlimit(kind, (value, value))


def _closed(number: int, folder: Path) -> None:
    os.close(number)


def _full_output(folder: Path) -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def _broken_pipe(folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)


def _no_variables(folder: Path) -> None:
    os.environ.clear()


def _low_priority(folder: Path) -> None:
    os.nice(19)


def _umask(folder: Path) -> None:
    os.umask(0o777)


SURROUNDINGS: dict[str, Callable[[Path], None]] = {
    "no HOME": _variables(HOME=None),
    "a HOME that is not there": _variables(HOME="/nowhere"),
    "a HOME that is a file": _variables(HOME=str(SIGN)),
    "no PATH": _variables(PATH=""),
    "LC_ALL=C": _variables(LC_ALL="C", LANG="C"),
    "an unknown locale": _variables(LC_ALL="xx_XX.UTF-8"),
    "TMPDIR that is not there": _variables(TMPDIR="/nowhere"),
    "TERM=dumb": _variables(TERM="dumb"),
    "a terminal of one column": _variables(COLUMNS="1"),
    "an odd time zone": _variables(TZ="Nowhere/At_all"),
    "NO_COLOR": _variables(NO_COLOR="1"),
    "FORCE_COLOR": _variables(FORCE_COLOR="1"),
    "no variables at all": _no_variables,
    "MONKEYLIB_OUTPUTS that is not there": _variables(MONKEYLIB_OUTPUTS="/nowhere/at/all"),
    "MONKEYLIB_OUTPUTS that is a file": _variables(MONKEYLIB_OUTPUTS=str(SIGN)),
    "MONKEYLIB_OUTPUTS that is empty": _variables(MONKEYLIB_OUTPUTS=""),
    "MONKEYLIB_DATA that is a file": _variables(MONKEYLIB_DATA=str(SIGN)),
    "a scheduler's variables": _variables(SLURM_JOB_ID="5", SLURM_PROCID="0", SLURM_NTASKS="4"),
    "torchrun's variables": _variables(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0"),
    "an empty proxy": _variables(HTTP_PROXY="", HTTPS_PROXY="http://127.0.0.1:1"),
    "a folder with blanks and umlauts": _in_folder("ä ö/ü ß"),
    "a folder with a line break": _in_folder("a\nb"),
    "a folder with quotes": _in_folder('it\'s "here"'),
    "a deep folder": _in_folder("/".join(["d" * 100] * 20)),
    "a working folder that is gone": _folder_is_gone,
    "64 open files": partial(_limit, resource.RLIMIT_NOFILE, 64),
    "files of at most 4 kB": partial(_limit, resource.RLIMIT_FSIZE, 4096),
    "no core dumps": partial(_limit, resource.RLIMIT_CORE, 0),
    "standard input closed": partial(_closed, 0),
    "a full standard output": _full_output,
    "a pipe that nobody reads": _broken_pipe,
    "umask 777": _umask,
    "low priority": _low_priority,
    "warnings as errors": _variables(PYTHONWARNINGS="error"),
}

WRONG_CALLS: dict[str, list[str]] = {
    "a question that is empty": ["answer", str(SIGN), "", "--model", str(BASE)],
    "a question of half a surrogate pair": ["answer", str(SIGN), "what\udcff?", "--model", str(BASE)],
    "a question of 100,000 words": ["answer", str(SIGN), "word " * 100_000, "--model", str(BASE)],
    "a model that is a file": ["answer", str(SIGN), QUESTION, "--model", str(SIGN)],
    "a model that is an empty folder": ["answer", str(SIGN), QUESTION, "--model", "."],
    "a profile that nobody knows": ["train", "--profile", "nanoo", "--steps", "1"],
    "a mixture that nobody knows": ["train", "--profile", "smoke", "--data", "nobody", "--steps", "1"],
    "a run folder that is a file": ["train", "--profile", "smoke", "--steps", "1", "--out", str(SIGN)],
    "a run folder in /proc": ["train", "--profile", "smoke", "--steps", "1", "--out", "/proc/run"],
    "a benchmark that nobody knows": [
        "evaluate",
        "--model",
        str(BASE),
        "--benchmarks",
        "nobody",
        "--out",
        "o",
    ],
    "predictions that are not there": ["score", "nowhere"],
    "images that are not there": ["caption", "nowhere", "--out", "o", "--experts", "pp-ocr"],
    "an expert that nobody knows": ["caption", str(SIGN), "--out", "o", "--experts", "nobody"],
    "a checkpoint that is not there": ["convert", "nowhere", "o"],
}


def _wrong(arguments: list[str], folder: Path) -> str:
    return require_one_sentence(sandbox.run(arguments, folder))
