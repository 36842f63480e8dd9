"""Progress is a bar on a terminal and in a notebook, and lines in a log."""

import io
import re
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console
from transformers.utils import logging

from monkeylib import progress
from monkeylib.progress import MAXIMUM_LINES, Progress, format_seconds, hide_transformers_bars, say


class Clock:
    """Time that passes when a test says so."""

    seconds = 0.0

    def __call__(self):
        return self.seconds


def work(console, enabled=True, clock=None):
    """Count two tasks of eight images, and return what is written."""
    clock = clock or Clock()
    with Progress("images", enabled, console, clock) as progress:
        progress.add_task("sam", 8)
        progress.add_task("compose", 8)
        progress.advance("sam", 2, cached=True)
        for _ in range(3):
            clock.seconds += 1
            progress.advance("sam", 2)
        progress.advance("compose", cached=True)

    return re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", console.file.getvalue())


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=120)


def log():
    return Console(file=io.StringIO())


def last_line(drawing: str, start: str) -> str:
    return next(line for line in reversed(drawing.splitlines()) if line.startswith(start))


def test_each_task_has_a_bar_and_the_speed_leaves_cached_items_out():
    drawing = work(terminal())
    sam, compose = last_line(drawing, "sam"), last_line(drawing, "compose")

    assert "8/8" in sam
    assert "2 images/s" in sam, "six images in three seconds"
    assert "1/8" in compose
    assert "images/s" not in compose, "cached results took no time"


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_each_task_has_one_line_however_narrow_the_terminal(width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    clock = Clock()
    with Progress("steps", console=console, clock=clock) as progress:
        progress.add_task("step", 120)
        progress.set_values("step", "train loss 0.2663", "val loss 0.1234", "0.956 rows/s", "1.4 GiB")
        clock.seconds += 50
        progress.advance("step", 60)

    lines = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", console.file.getvalue()).splitlines()
    shown = [line.strip() for line in lines if line.strip()]
    assert all(line.startswith("step ") and len(line) <= width for line in shown)
    assert re.search(r"60/120 0:50 left, train loss 0\.2663", shown[-1])
    assert ("━" in shown[-1]) == (width >= 120)


@pytest.mark.parametrize("console", [terminal, log])
def test_disabled_progress_writes_nothing(console):
    assert work(console(), enabled=False).strip() == ""


def test_log_gets_plain_lines():
    lines = work(log()).splitlines()
    assert lines == ["sam 6/8, 2 images/s, 0:01 left", "sam 8/8, 2 images/s, took 0:03"]


def test_short_work_is_not_worth_a_line_in_a_log():
    clock, console = Clock(), log()
    with Progress("files", console=console, clock=clock) as progress:
        progress.add_task("reading", 3)
        for _ in range(3):
            clock.seconds += 0.5
            progress.advance("reading")
    assert console.file.getvalue() == ""


def test_lines_of_a_log_become_rarer_and_its_last_one_is_always_there():
    clock, console = Clock(), log()
    with Progress("steps", console=console, clock=clock) as progress:
        progress.print("train on 1 x CPU")
        progress.add_task("step", 3600)
        for _ in range(3600):
            clock.seconds += 1
            progress.advance("step")

    first, *lines = console.file.getvalue().splitlines()
    steps = [int(re.match(r"step (\d+)/3600", line)[1]) for line in lines]
    assert first == "train on 1 x CPU"
    assert steps[0] == 1
    assert steps[-1] == 3600
    assert steps[1] <= 60, "the first lines come soon"
    pauses = [later - earlier for earlier, later in zip(steps, steps[1:], strict=False)]
    assert max(pauses) == 60, "at least one a minute"


def test_long_task_does_not_flood_a_log():
    clock, console = Clock(), log()
    with Progress("steps", console=console, clock=clock) as progress:
        progress.add_task("step", 5000)
        for _ in range(5000):
            clock.seconds += 120  # a week
            progress.advance("step")

    count = len(console.file.getvalue().splitlines())
    assert MAXIMUM_LINES / 2 < count <= MAXIMUM_LINES + 10


def test_values_are_read_only_where_they_are_written():
    clock, console = Clock(), log()
    reads = 0
    with Progress("steps", console=console, clock=clock) as progress:
        progress.add_task("step", 1000)
        for step in range(1000):
            clock.seconds += 0.1
            if progress.is_due("step"):
                reads += 1
                progress.set_values("step", f"loss {step}")
            progress.advance("step")

    assert reads == len(console.file.getvalue().splitlines())
    assert "step 1000/1000, loss 999, " in console.file.getvalue()


def test_notebook_gets_one_line_that_is_written_anew(monkeypatch):
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    drawing = work(log())

    assert drawing.count("\n") == 1
    *_, last = drawing.rstrip().split("\r")
    assert "sam 8/8, 2 images/s, took 0:03" in last
    assert "█" * 20 in last


def test_durations_are_minutes_or_hours():
    assert [format_seconds(seconds) for seconds in (5.4, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


def test_what_is_said_is_one_line_on_standard_error(capsys):
    say("two\nlines")
    assert capsys.readouterr() == ("", "monkeylib: two lines\n")


def test_bars_of_transformers_are_for_a_terminal_alone(monkeypatch):
    monkeypatch.setattr(logging, "_tqdm_active", True)
    with hide_transformers_bars():
        assert not logging.is_progress_bar_enabled()
    assert logging.is_progress_bar_enabled()

    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
    with hide_transformers_bars():
        assert logging.is_progress_bar_enabled()


def test_quiet_process_says_errors_alone(capsys):
    try:
        for level, expected in ((-1, ["error"]), (0, ["note", "error"]), (1, ["note", "detail", "error"])):
            progress.set_verbosity(level)
            console = Console(file=io.StringIO(), width=200)
            clock = Clock()
            with Progress("images", True, console, clock) as bars:
                bars.add_task("sam", 1)
                clock.seconds = 100
                bars.advance("sam")
            assert ("sam" in console.file.getvalue()) == (level >= 0)

            say("note")
            progress.say_detail("detail")
            progress.say_error("error")
            assert capsys.readouterr().err.split("\n")[:-1] == [f"monkeylib: {word}" for word in expected]
    finally:
        progress.set_verbosity(0)
