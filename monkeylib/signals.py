"""Signals that end work: SIGINT (Ctrl-C), SIGTERM and SIGUSR1, which schedulers send ahead of a time limit.

A signal becomes the exception `Interrupted`, so that blocks are left as at any error: files are closed,
temporary ones removed, processes ended. Its exit code and its sentence tell that the work is not finished.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

# Exit code of work that was interrupted and saved, EX_TEMPFAIL of sysexits.h: the same command goes on.
EXIT_SAVED = 75

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
    script. Outside of the main thread, where Python calls no handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    previous: dict[int, Any] = {}
    for number in NUMBERS:
        if signal.getsignal(number) != signal.SIG_IGN:
            previous[number] = signal.signal(number, handler)

    try:
        yield
    finally:
        # None is a handler that was not installed from Python, which cannot be put back.
        for number, previous_handler in previous.items():
            signal.signal(number, signal.SIG_DFL if previous_handler is None else previous_handler)


@contextmanager
def end_at_once() -> Iterator[None]:
    """Leave the block at the first signal with `Interrupted`.

    Raises:
        Interrupted: a signal has come.
    """

    def interrupt(number: int, _: FrameType | None) -> None:
        # Processes that work together report once.
        is_main = os.environ.get("RANK", "0") == "0"
        sentence = f"interrupted by {name(number)}: what is complete is saved, and the same command goes on"
        raise Interrupted(sentence if is_main else "", exit_code(number))

    with handle(interrupt):
        yield


def obey_parent_alone() -> None:
    """End this process at a signal of the process that started it, and at nobody else's.

    A signal to a group of processes is left to the parent, which ends its children when it is ready.
    """
    parent = os.getppid()
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
