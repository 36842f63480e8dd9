"""Ask a model about many things: what is kept isn't asked again, and one failure spoils no other.

That holds for a question that ends the process, too: the next run asks it alone, and after three deaths not
any more.
"""

import fcntl
import json
import multiprocessing
import os
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter

from monkeylib import resources
from monkeylib.captions.annotations import Failure, Provenance
from monkeylib.captions.experts.base import Model
from monkeylib.digests import json_digest

Said = TypeVar("Said")


def folder_of(root: Path, provenance: Provenance) -> Path:
    """Where what a model said at a version and with settings is kept."""
    name, version = (quote(part, safe=" +@=,") for part in (provenance.expert, provenance.version))
    return root / name / f"{version}-{json_digest([provenance.settings])[:8]}"


@dataclass(frozen=True)
class ResultCache:
    """Entries of one model, at `home`, by keys that are SHA-256 sums."""

    home: Path

    def get(self, key: str, parse: Callable[[bytes], Said]) -> Said | None:
        """What was said, or None where nothing is kept that `parse` accepts."""
        try:
            return parse(self._path(key).read_bytes())
        except (OSError, ValueError):
            return None

    def put(self, key: str, text: str) -> None:
        """Keep what was said, in place of what was kept."""
        with resources.atomic_write(self._path(key)) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _path(self, key: str) -> Path:
        return self.home / key[:2] / f"{key}.json"


MOST = 3  # processes that a question may end
_BATCH = "batch"


class ProcessEnded(RuntimeError):
    """The process of a model ended before it answered."""


@dataclass(frozen=True)
class CrashLedger:
    """The notes of one model, in folders of `home`, where its answers lie."""

    home: Path

    @contextmanager
    def working_on(self, keys: Sequence[str]) -> Iterator[None]:
        """Leave a note while questions are asked; it stays only if the process ends."""
        note = self.home / "working" / f"{uuid.uuid4().hex}.json"
        with resources.atomic_write(note) as temporary:
            file = temporary.open("w", encoding="utf-8")  # open, and so locked, until the block ends
            _lock(file)
            json.dump(list(keys), file)
            file.flush()
        try:
            yield
        finally:
            note.unlink(missing_ok=True)
            file.close()

    def ended(self) -> Counter[str]:
        """How many processes each suspect has ended while it was asked alone; 0 for one of a batch."""
        for note in (self.home / "working").glob("*.json"):
            if not note.name.startswith("."):  # not whole yet
                self._collect(note)
        found: Counter[str] = Counter()
        for path in (self.home / "died").glob("*.*"):
            key, _, death = path.name.partition(".")
            found[key] += death != _BATCH
        return found

    def blame(self, keys: Sequence[str], death: str = "") -> None:
        """Note that a process ended while it was asked these; `death` tells one end from another."""
        folder = self.home / "died"
        folder.mkdir(parents=True, exist_ok=True)
        death = (death or uuid.uuid4().hex) if len(keys) == 1 else _BATCH
        for key in keys:
            (folder / f"{key}.{death}").touch()

    def forgive(self, key: str) -> None:
        """Forget what a question was blamed for: it has an answer."""
        for path in (self.home / "died").glob(f"{key}.*"):
            path.unlink(missing_ok=True)

    def _collect(self, note: Path) -> None:
        """Blame the questions of a note whose process has ended; twice is as good as once."""
        try:
            with note.open("r+", encoding="utf-8") as file:
                if not _lock(file):
                    return
                self.blame(json.load(file), note.stem)
        except FileNotFoundError:  # another process was quicker
            return
        except ValueError:  # the machine went down before the note was on its disk
            pass
        note.unlink(missing_ok=True)


def _lock(file: IO[str]) -> bool:
    """Take a file's lock; False where a living process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks on this file system
        return True
    return True


class ModelFailed(RuntimeError):
    """What a model raised in its process, as text: type and message."""


class SubprocessWorker:
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


ProgressCallback = Callable[
    [str, int, bool], None
]  # stage, how many are done, whether they were kept from earlier


class InferenceRequest(NamedTuple):
    """What is asked about, and the key of its answer in the store."""

    key: str
    subject: Any


@lru_cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


def failure(stage: str, error: Exception) -> Failure:
    """An exception as it is recorded."""
    text = str(error) if isinstance(error, ModelFailed) else f"{type(error).__name__}: {error}"
    return Failure(stage=stage, error=text)


class CachedModel:
    """One model, and the store of its answers.

    Args:
        model: prepared when the first question comes whose answer isn't kept.
        answer: the answers to a batch of subjects, in their order; an exception may stand for an answer.
        kind: type of an answer, which pydantic turns to JSON and back.
        root: folder of the stores.
        batch_size: subjects that the model gets at once.
        name: of the stage in failures and progress, by default the model's.
        time_limit: seconds for a batch, or for a subject asked alone; the model then runs in a process of
            its own, which is ended when it takes longer. None for no limit, in this process.
    """

    def __init__(
        self,
        model: Model,
        answer: Callable[[Sequence[Any]], Sequence[Any]],
        kind: Any,
        root: Path,
        batch_size: int,
        name: str = "",
        time_limit: float | None = None,
    ) -> None:
        self.kind, self.batch_size, self.name = kind, batch_size, name or model.name
        apart = SubprocessWorker(model, answer, time_limit) if time_limit else None
        self.answer, self.runs = apart or answer, apart or model
        self.store = ResultCache(folder_of(root, model.provenance))
        self.attempts = CrashLedger(self.store.home)
        self._deaths = f"{root.name}/{self.store.home.relative_to(root).as_posix()}/died"
        self.asked = self.kept = 0  # questions to the model, and those it was spared, since this was made
        self._unusable: Failure | None = None
        self._ended: Counter[str] = Counter()  # processes that a suspect has ended

    def __call__(
        self, questions: Sequence[InferenceRequest], advance: ProgressCallback | None = None
    ) -> dict[str, Any]:
        """The answer to each question by its key, a `Failure` where there is none.

        Answers are kept as they come, failures aren't: the next run asks again.
        """
        unique = {question.key: question for question in questions}
        advance = advance or (lambda *_: None)
        parse = _adapter(self.kind).validate_json
        answers = {key: self.store.get(key, parse) for key in unique}
        missing = [question for key, question in unique.items() if answers[key] is None]
        self.kept += len(unique) - len(missing)
        advance(self.name, len(questions) - len(missing), True)
        for question, said in self._new(missing):
            answers[question.key] = said
            if not isinstance(said, Failure):
                self.store.put(question.key, _adapter(self.kind).dump_json(said).decode())
            advance(self.name, 1, False)
        return answers

    def release(self) -> None:
        """Free the model; it is loaded again when it is needed."""
        self.runs.release()

    def _new(self, questions: Sequence[InferenceRequest]) -> Iterator[tuple[InferenceRequest, Any]]:
        """Questions with new answers; a model that can't be loaded fails on all of them at once."""
        self._ended = self.attempts.ended() if questions else Counter()
        given_up = [question for question in questions if self._ended[question.key] >= MOST]
        yield from ((question, self._given_up()) for question in given_up)
        questions = [question for question in questions if self._ended[question.key] < MOST]
        if questions and self._unusable is None:
            try:
                self.runs.prepare()
            except Exception as error:  # whatever a model raises is recorded
                self._unusable = failure(self.name, error)
        if self._unusable is not None:
            yield from ((question, self._unusable) for question in questions)
            return
        self.asked += len(questions)
        for batch in self._batches(questions):
            for question, said in zip(batch, self._answers(batch), strict=True):
                if question.key in self._ended and not isinstance(said, Failure):
                    self.attempts.forgive(question.key)
                yield question, said

    def _batches(self, questions: Sequence[InferenceRequest]) -> list[Sequence[InferenceRequest]]:
        """Questions as they are asked together; suspects come last, each alone."""
        suspects = [question for question in questions if question.key in self._ended]
        others = [question for question in questions if question.key not in self._ended]
        together = [others[i : i + self.batch_size] for i in range(0, len(others), self.batch_size)]
        return [*together, *([question] for question in suspects)]

    def _answers(self, batch: Sequence[InferenceRequest]) -> list[Any]:
        """Answers to a batch; where it fails, each is asked alone, so that one spoils no other."""
        keys = [question.key for question in batch]
        try:
            with self.attempts.working_on(keys):
                said = list(self.answer([question.subject for question in batch]))
            if len(said) != len(batch):
                raise ValueError(f"{self.name} gave {len(said)} answers for {len(batch)} images")
        except ProcessEnded:
            if len(batch) == 1:
                self.attempts.blame(keys)
                self._ended[keys[0]] += 1
                if self._ended[keys[0]] >= MOST:
                    return [self._given_up()]
            return self._one_by_one(batch)
        except Exception as error:  # whatever a model raises is recorded
            return [failure(self.name, error)] if len(batch) == 1 else self._one_by_one(batch)
        return [failure(self.name, item) if isinstance(item, Exception) else item for item in said]

    def _one_by_one(self, batch: Sequence[InferenceRequest]) -> list[Any]:
        return [answer for question in batch for answer in self._answers([question])]

    def _given_up(self) -> Failure:
        said = f"ended the process {MOST} times; it is asked again when {self._deaths} is deleted"
        return Failure(stage=self.name, error=said)
