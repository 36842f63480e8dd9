"""A model in a process of its own, which is ended when an answer takes too long, and started again.

Only a process can be ended whatever it does; a thread that hangs in a library can't.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from monkeylib.captions.attempts import ProcessEnded
from monkeylib.captions.experts.base import Model


class ModelFailed(RuntimeError):
    """What a model raised in its process, as text: type and message."""


class Apart:
    """Answers of a model, each within a time limit.

    Args:
        model: loaded in the other process, never in this one.
        answer: the answers to a batch of subjects; a function or a method that can be pickled.
        limit: seconds for each call. Loading the model has no limit.
    """

    def __init__(self, model: Model, answer: Callable[[Sequence[Any]], Sequence[Any]], limit: float) -> None:
        self.model, self.answer, self.limit = model, answer, limit
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the process: who gets a copy starts another."""
        return {**self.__dict__, "_process": None, "_connection": None}

    def prepare(self) -> None:
        """Start the process, if it doesn't run, and load the model there.

        Raises:
            ModelFailed: the model can't be loaded.
            ProcessEnded: its process ended meanwhile.
        """
        if self._process is not None:
            return
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["monkeylib.captions.experts"])  # so that starting again is quick
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self.model, self.answer), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._received(None)
        except ModelFailed:
            self.release()
            raise

    def __call__(self, subjects: Sequence[Any]) -> Sequence[Any]:
        """The answers to a batch.

        Raises:
            ModelFailed: the model raised something.
            ProcessEnded: its process ended.
            TimeoutError: it took longer than the limit; its process has been ended.
        """
        self.prepare()
        assert self._connection is not None
        try:
            self._connection.send(list(subjects))
        except OSError as error:
            raise self._ended() from error
        return self._received(self.limit)

    def release(self) -> None:
        """End the process."""
        if self._process is not None and self._connection is not None:
            self._connection.close()
            self._process.kill()
            self._process.join()
        self._process = self._connection = None

    def _received(self, limit: float | None) -> Any:
        assert self._connection is not None
        if not self._connection.poll(limit):
            self.release()
            raise TimeoutError(f"no answer within {limit:g} seconds")
        try:
            fine, said = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if not fine:
            raise ModelFailed(said)
        return said

    def _ended(self) -> ProcessEnded:
        self.release()
        return ProcessEnded(f"the process of {self.model.name} ended")


def _serve(connection: Connection, model: Model, answer: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
    """Load a model, then answer until the other end closes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection.send(_tried(model.prepare))
    while True:
        try:
            subjects = connection.recv()
        except EOFError:
            return
        connection.send(_tried(lambda subjects=subjects: list(answer(subjects))))


def _tried(step: Callable[[], Any]) -> tuple[bool, Any]:
    try:
        return True, step()
    except Exception as error:  # whatever a model raises is recorded
        return False, f"{type(error).__name__}: {error}"


def _end_with_parent() -> None:
    """A model that hangs must not outlive who asked it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
