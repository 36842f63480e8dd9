"""How long work talks: a bar on a terminal and in a notebook, plain lines in a log.

Whatever takes long (training, evaluation, captions, conversion of checkpoints) opens one `Progress`, adds its
tasks, and counts what they have finished:

    with Progress(unit="images") as progress:
        progress.add_task("captions", total=len(images))
        for image in images:
            ...
            progress.advance("captions")

On a terminal each task has a bar. A notebook shows one line that is written anew. Anywhere else, in the log
of a scheduler or in a pipe, a line is written now and then: soon at first, later once a minute, and about
`MAXIMUM_LINES` of a task that takes long.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich import progress as bars
from rich.console import Console
from rich.table import Column
from rich.text import Text

from monkeylib import resources

# What reports progress calls these with a number of finished items and whether their results were cached. The
# first one takes the name of the task before them.
ProgressCallback = Callable[[str, int, bool], None]
CountCallback = Callable[[int, bool], None]

MAXIMUM_LINES = 100

# -1: errors and results alone, without notes and progress; 1: details too. See `set_verbosity`.
_verbosity = 0

# Seconds between two lines in a log: these double from the first to the last.
_FIRST_PAUSE, _LAST_PAUSE = 2.0, 60.0
# Seconds between two updates of a bar.
_BAR_PAUSE = 0.25
# Columns of a terminal from which there is room for a bar.
_WIDTH_WITH_BAR = 120


@dataclass
class Task:
    """What is known of a task.

    Fields:
        name: its name.
        total: items in all.
        unit: what it counts, in the plural.
        start: when it was added, in seconds of `clock`.
        clock: returns the time in seconds.
        completed: finished items.
        computed: finished items whose results were not cached.
        values: what else is displayed, such as "loss 1.23".
    """

    name: str
    total: int
    unit: str
    start: float
    clock: Callable[[], float]
    completed: int = 0
    computed: int = 0
    values: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Seconds since it was added."""
        return self.clock() - self.start

    @property
    def speed(self) -> float | None:
        """Computed items per second: cached ones cost no time. None before the first one."""
        return self.computed / self.seconds if self.computed and self.seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until it is complete, None where that is not known yet."""
        if self.completed >= self.total:
            return 0.0
        return (self.total - self.completed) / self.speed if self.speed else None

    def describe(self) -> str:
        """Return a line about the task."""
        count = f"{self.name} {self.completed}/{self.total}"
        return ", ".join([count, *self._values_and_speed(), *self._time()])

    def describe_beside_bar(self) -> str:
        """Return what a bar does not show; time first, as the end of the line may be cut off."""
        return ", ".join([*self._time(), *self._values_and_speed()])

    def _values_and_speed(self) -> list[str]:
        speed = [] if self.speed is None else [f"{format_rate(self.speed)} {self.unit}/s"]
        return [*self.values, *speed]

    def _time(self) -> list[str]:
        if self.completed >= self.total:
            return [f"took {format_seconds(self.seconds)}"]
        return [] if self.seconds_left is None else [f"{format_seconds(self.seconds_left)} left"]


class Progress:
    """Progress of one or several tasks on standard error while the block is entered.

    Args:
        unit: what the tasks count, in the plural.
        enabled: whether to write anything; pass False in all but one of several processes.
        console: where to draw, by default standard error.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        unit: str = "items",
        enabled: bool = True,
        console: Console | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.unit, self.clock = unit, clock
        self._tasks: dict[str, Task] = {}
        self._display: _Display = _Nothing()
        if enabled and _verbosity >= 0:
            self._display = _display(console or Console(stderr=True), clock)

    def __enter__(self) -> Self:
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()

    def print(self, text: str) -> None:
        """Write a line, above the bars."""
        self._display.print(text)

    def add_task(self, name: str, total: int, completed: int = 0) -> None:
        """Add a task of `total` items, of which some may be complete already."""
        task = Task(name, total, self.unit, self.clock(), self.clock, completed)
        self._tasks[name] = task
        self._display.add(task)

    def advance(self, name: str, count: int = 1, cached: bool = False) -> None:
        """Count finished items of a task. Cached ones cost no time, so the speed leaves them out."""
        task = self._tasks[name]
        task.completed += count
        if not cached:
            task.computed += count

        self._display.update(task)

    def is_due(self, name: str) -> bool:
        """Return whether the next `advance` writes something, so that values are only read then."""
        return self._display.is_due(self._tasks[name], advanced=1)

    def set_values(self, name: str, *values: str) -> None:
        """Set what is displayed of a task beside its count, such as "loss 1.23"."""
        self._tasks[name].values = values


def set_verbosity(level: int) -> None:
    """Set how much this process tells: -1 nothing but errors, 0 notes and progress, 1 details too."""
    global _verbosity
    _verbosity = level


def say(sentence: str) -> None:
    """Note something for the user in one line on standard error, at once: work may take days."""
    if _verbosity >= 0:
        say_error(sentence)


def say_detail(sentence: str) -> None:
    """Note something that only those want to know who ask for details."""
    if _verbosity > 0:
        say_error(sentence)


def say_error(sentence: str) -> None:
    """Tell the user an error in one line on standard error, however quiet the process is."""
    sentence = resources.as_typed(" ".join(sentence.split()))
    print(f"monkeylib: {sentence}", file=sys.stderr, flush=True)


@contextmanager
def hide_transformers_bars() -> Iterator[None]:
    """Hide transformers' bars while a block runs, unless somebody watches them: in a log they are noise."""
    from transformers.utils import logging

    is_watched = sys.stderr.isatty() or resources.in_notebook()
    if is_watched or not logging.is_progress_bar_enabled():
        yield
        return

    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def format_seconds(seconds: float) -> str:
    """Return a duration as `1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def format_rate(rate: float) -> str:
    """Return a rate with three digits or more."""
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


# --- where it is shown


class _Display(Protocol):
    """Shows tasks."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def print(self, text: str) -> None: ...
    def add(self, task: Task) -> None: ...
    def update(self, task: Task) -> None: ...
    def is_due(self, task: Task, advanced: int = 0) -> bool: ...


def _display(console: Console, clock: Callable[[], float]) -> _Display:
    if resources.in_notebook():
        return _NotebookLine(console.file, clock)
    return _Bars(console) if console.is_terminal else _Lines(console.file, clock)


class _Nothing:
    """Shows nothing."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def print(self, text: str) -> None: ...
    def add(self, task: Task) -> None: ...
    def update(self, task: Task) -> None: ...

    def is_due(self, task: Task, advanced: int = 0) -> bool:
        return False


class _Bars:
    """Shows a bar for each task on a terminal."""

    def __init__(self, console: Console) -> None:
        # A narrow terminal has no room for a bar beside its numbers.
        bar = [bars.BarColumn()] if console.width >= _WIDTH_WITH_BAR else []
        self._progress = bars.Progress(
            bars.TextColumn("{task.description}"),
            *bar,
            bars.MofNCompleteColumn(),
            _TaskColumn(table_column=Column(no_wrap=False)),
            console=console,
        )
        self._ids: dict[str, bars.TaskID] = {}
        self._last_values = 0.0

    def start(self) -> None:
        self._progress.start()

    def stop(self) -> None:
        self._progress.stop()

    def print(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def add(self, task: Task) -> None:
        self._ids[task.name] = self._progress.add_task(
            task.name, total=task.total, completed=task.completed, about=task
        )

    def update(self, task: Task) -> None:
        self._progress.update(self._ids[task.name], completed=task.completed)

    def is_due(self, task: Task, advanced: int = 0) -> bool:
        # The bars draw themselves; reading values may cost time.
        if due := task.clock() - self._last_values >= _BAR_PAUSE:
            self._last_values = task.clock()
        return due


class _TaskColumn(bars.ProgressColumn):
    """Time left, values and speed of a task; what the line has no room for is cut off."""

    def render(self, task: bars.Task) -> Text:
        """Return what the line about the task says after its count."""
        text = task.fields["about"].describe_beside_bar()
        return Text(text, style="dim", no_wrap=True, overflow="ellipsis")


class _Lines:
    """Writes a line now and then. Work that is complete at once is not worth a line."""

    def __init__(self, file: TextIO, clock: Callable[[], float]) -> None:
        self.file, self.clock = file, clock
        self._pause, self._next = _FIRST_PAUSE, clock() + _FIRST_PAUSE
        self._has_written = False

    def start(self) -> None: ...
    def stop(self) -> None: ...

    def print(self, text: str) -> None:
        print(text, file=self.file, flush=True)
        # What announces itself goes on at once.
        self._next, self._has_written = self.clock(), True

    def add(self, task: Task) -> None: ...

    def is_due(self, task: Task, advanced: int = 0) -> bool:
        is_last = task.completed + advanced == task.total
        return self.clock() >= self._next or (is_last and self._has_written)

    def update(self, task: Task) -> None:
        if not self.is_due(task):
            return
        self.print(task.describe())

        # A long task gets fewer lines, so that no log is flooded.
        expected = task.seconds + (task.seconds_left or 0.0)
        self._next = self.clock() + max(self._pause, expected / MAXIMUM_LINES)
        self._pause = min(2 * self._pause, _LAST_PAUSE)


class _NotebookLine:
    """Shows the tasks in one line of a notebook's output, which is written anew.

    It is on standard error, which notebooks leave out when they are committed.
    """

    def __init__(self, file: TextIO, clock: Callable[[], float]) -> None:
        self.file, self.clock = file, clock
        self._next, self._width = clock(), 0

    def start(self) -> None: ...

    def stop(self) -> None:
        if self._width:
            print(file=self.file, flush=True)

    def print(self, text: str) -> None:
        print(f"\r{text.ljust(self._width)}", file=self.file, flush=True)
        self._width = 0

    def add(self, task: Task) -> None: ...

    def is_due(self, task: Task, advanced: int = 0) -> bool:
        return self.clock() >= self._next or task.completed + advanced == task.total

    def update(self, task: Task) -> None:
        if not self.is_due(task):
            return

        text = task.describe()
        filled = round(20 * min(1.0, task.completed / max(1, task.total)))
        line = f"{'█' * filled}{'░' * (20 - filled)} {text}"
        # Blanks cover what is left of a longer line.
        print(f"\r{line.ljust(self._width)}", end="", file=self.file, flush=True)
        self._width = len(line)
        self._next = self.clock() + _BAR_PAUSE
