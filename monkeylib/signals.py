"""Signals that end work: SIGINT (Ctrl-C), SIGTERM and SIGUSR1, which schedulers send ahead of a time limit.

A signal becomes the exception `Interrupted`, so that blocks are left as at any error: files are closed,
temporary ones removed, processes ended. Its exit code and its sentence tell that the work is not finished.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

# Exit code of work that was interrupted and saved, EX_TEMPFAIL of sysexits.h: the same command goes on.
EXIT_SAVED = 75

# What `end_at_once` says of work that keeps what is complete.
GOES_ON = "what is complete is saved; run it again to go on"

# A process may get one SIGINT twice, itself and in its group; a user's next one takes longer (seconds).
_SAME_INTERRUPT = 1.0

# After which a signal is sent again that Python has dropped.
_AGAIN_SECONDS = 0.1

_outcome: ContextVar[str] = ContextVar("outcome", default="")

Handler = Callable[[int, FrameType | None], Any]


class Interrupted(SystemExit):
    """A signal has ended the work. Without a handler it ends the process with its exit code.

    Args:
        sentence: what the user should know; empty where another process reports.
        code: exit code.
    """

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


def exit_code(number: int) -> int:
    """Return the exit code that shells report for a process that a signal has ended: 130 for SIGINT."""
    return 128 + number


def name(number: int) -> str:
    """Return the name of a signal, such as SIGTERM."""
    return signal.Signals(number).name


@contextmanager
def handle(handler: Handler) -> Iterator[None]:
    """Call a handler at each signal while the block is entered.

    A signal that the process was started to ignore stays ignored, such as SIGINT in a background job of a
    script. One that is held back comes through: a fork server that was first needed while signals were held
    back gives that to every process it makes later. Outside of the main thread, where Python calls no
    handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    previous: dict[int, Any] = {}
    try:
        for number in NUMBERS:
            if signal.getsignal(number) != signal.SIG_IGN:
                previous[number] = signal.signal(number, handler)

        # From here on, a signal that has come meanwhile may raise in any line.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, previous)
        yield
    finally:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        finally:
            # None is a handler that was not installed from Python, which cannot be put back.
            for number, previous_handler in previous.items():
                signal.signal(number, signal.SIG_DFL if previous_handler is None else previous_handler)


@contextmanager
def say_when_interrupted(outcome: str) -> Iterator[None]:
    """Let the sentence of `end_at_once` tell what has become of the work, such as `GOES_ON`, while the block
    is entered."""
    token = _outcome.set(outcome)
    try:
        yield
    finally:
        _outcome.reset(token)


@contextmanager
def end_at_once() -> Iterator[None]:
    """Leave the block at the first signal with `Interrupted`.

    Further ones are ignored while the block is left, so that files are closed and processes ended in peace;
    only a user's second SIGINT ends the process without that.

    Raises:
        Interrupted: a signal has come.
    """
    first: float | None = None
    timers: list[threading.Timer] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        nonlocal first
        if first is None:
            first = time.monotonic()
            if not _is_interrupted(sys.exception()):
                raise _interrupted(number)

        if number == signal.SIGINT and time.monotonic() - first > _SAME_INTERRUPT:
            os.write(2, b"\nmonkeylib: ended at once\n")
            os._exit(exit_code(number))

    def send_again(number: int) -> None:
        nonlocal first
        first = None
        timers.append(threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number)))
        timers[-1].daemon = True
        timers[-1].start()

    with handle(interrupt), _noticing_dropped_interruptions(send_again):
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()


@contextmanager
def _noticing_dropped_interruptions(notice: Callable[[int], None]) -> Iterator[None]:
    """Call a function with the number of a signal whose exception Python has dropped.

    It does so where the exception is raised in a `__del__` method, or in a callback of the garbage collector.
    """
    previous_hook = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, Interrupted):
            notice(unraisable.exc_value.code - exit_code(0))
        else:
            previous_hook(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = previous_hook


def _interrupted(number: int) -> Interrupted:
    """Return the exception of a signal."""
    # Processes that work together report once.
    if os.environ.get("RANK", "0") != "0":
        return Interrupted("", exit_code(number))
    outcome = _outcome.get()
    return Interrupted(
        f"interrupted by {name(number)}" + (f": {outcome}" if outcome else ""), exit_code(number)
    )


def _is_interrupted(error: BaseException | None) -> bool:
    """Return whether an exception that is being handled comes from `Interrupted`."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error is not None


def obey_parent_alone() -> None:
    """End this process at a signal of the process that started it, and at nobody else's.

    A signal to a group of processes is left to the parent, which ends its children when it is ready.
    """
    # Of a process that a server has forked, the parent is who has asked the server for it.
    process = multiprocessing.parent_process()
    parent = os.getppid() if process is None else process.pid
    # Blocked, signals wait until they are fetched with their sender.
    signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
    threading.Thread(target=_wait_for_signal, args=(parent,), daemon=True).start()


def _wait_for_signal(sender: int) -> None:
    while signal.sigwaitinfo(NUMBERS).si_pid != sender:
        pass
    os._exit(0)


@contextmanager
def blocked() -> Iterator[None]:
    """Hold signals back while the block is entered; they come when it is left.

    Processes that start in the block get none, until they call `obey_parent_alone` or let them through.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
