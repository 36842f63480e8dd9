"""Inference with a result cache that survives inputs which crash or hang their model.

`CachedModel` runs a model on batches of inputs. Four things stand between the two:

* A `ResultStore` keeps every result on disk, so that a rerun computes only what is missing.
* An input on which the model raises becomes a `Failure`, after its batch was run again one by one.
* `CrashLedger` remembers the inputs of a process that was killed. The next run tries each of them alone, and
  quarantines an input that has crashed `MAXIMUM_CRASHES` processes.
* `SubprocessWorker` runs a model with a time limit in a separate process, which can be killed.
"""

import fcntl
import json
import multiprocessing
import os
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote

from monkeylib import signals
from monkeylib.captions.annotations import Failure, Provenance
from monkeylib.captions.failures import FailureKind, ModelError, StageFailed, failure_kind
from monkeylib.captions.models import Model
from monkeylib.captions.result_store import ResultStore
from monkeylib.digests import json_digest
from monkeylib.progress import CountCallback
from monkeylib.redaction import redact

MAXIMUM_CRASHES = 3  # processes that an input may crash before it is quarantined
MAXIMUM_FAILURES = 20  # after which a model that hardly ever succeeds ends the run
_HOPELESS = 0.9  # share of failures from which a model hardly ever succeeds

InferenceFunction = Callable[[Sequence[Any]], Sequence[Any]]


class ProcessEnded(RuntimeError):
    """The process of a model ended before it gave a result."""


class ModelFailed(ModelError):
    """An exception that a model raised in its own process, as text: type and message."""

    def __init__(self, message: str, kind: FailureKind = "raised") -> None:
        super().__init__(message)
        self.kind = kind


class TimeLimitExceeded(ModelError, TimeoutError):
    """A model took longer than its limit, and its process was killed."""

    kind: FailureKind = "timeout"


class InferenceRequest(NamedTuple):
    """An input of a model, and the key of its result in the cache."""

    key: str
    input: Any


def as_failure(stage: str, error: Exception) -> Failure:
    """Convert an exception to the failure that records store."""
    message = str(error) if isinstance(error, ModelFailed) else f"{type(error).__name__}: {error}"
    return Failure(stage=stage, error=redact(message), kind=failure_kind(error))


class CachedModel:
    """A model, the cache of its results, and the ledger of its crashes.

    Args:
        model: loaded for the first request whose result is not cached.
        infer: returns the results of a batch of inputs, in their order. An exception may stand for a result.
        result_type: type of a result, which pydantic converts to JSON and back.
        folder: folder of results and crashes; see `result_folder`.
        batch_size: number of inputs that the model gets at once.
        name: name of the stage in failures.
        time_limit: seconds for a batch, or for an input that is run alone. The model then runs in a separate
            process, which is killed when it takes longer. None runs it in this process, without a limit.
        max_failures: failures after which `StageFailed` is raised if nine in ten results are failures, or
            at once if the model can't be loaded; 0 for no limit.

    Attributes:
        computed: requests for which the model was run, so far.
        cached: requests whose results were cached, so far.
    """

    def __init__(
        self,
        model: Model,
        infer: InferenceFunction,
        result_type: Any,
        folder: Path,
        batch_size: int,
        *,
        name: str,
        time_limit: float | None = None,
        max_failures: int = MAXIMUM_FAILURES,
    ) -> None:
        self.model: Model | SubprocessWorker = model
        self.infer = infer
        if time_limit:
            self.model = self.infer = SubprocessWorker(model, infer, time_limit)

        self.batch_size = batch_size
        self.max_failures = max_failures
        self.name = name
        self.store = ResultStore(folder, result_type)
        self.ledger = CrashLedger(folder)
        self.computed = 0
        self.cached = 0

        self._results = self._failures = 0  # so far, cached ones too
        self._load_failure: Failure | None = None
        self._crashes: Counter[str] = Counter()  # of each suspect, as the ledger counts them

    def __call__(
        self, requests: Sequence[InferenceRequest], progress: CountCallback | None = None
    ) -> dict[str, Any]:
        """Return the result of each request by its key, a `Failure` where there is none.

        Results are cached batch by batch. Failures are not cached: the next run tries again.

        Args:
            requests: may repeat a key, which is then computed once.
            progress: called with a number of finished requests and whether they were cached.

        Raises:
            StageFailed: nearly everything fails; see `max_failures`.
        """
        # Copies of an image have the same key, and are computed once.
        unique = {request.key: request for request in requests}
        results = self.store.get(unique)
        missing = [request for key, request in unique.items() if key not in results]

        self.cached += len(unique) - len(missing)
        self._results += len(unique) - len(missing)
        if progress and len(requests) > len(missing):
            progress(len(requests) - len(missing), True)

        # Each batch is cached before the next one runs, so a kill loses one batch at most.
        for new_results in self._compute(missing):
            results.update(new_results)
            self.store.put(
                {key: result for key, result in new_results.items() if not isinstance(result, Failure)}
            )
            if progress:
                progress(len(new_results), False)
            self._require_successes(new_results)

        return results

    def _require_successes(self, new_results: Mapping[str, Any]) -> None:
        """Count results, and end the run if nearly all of them are failures.

        Raises:
            StageFailed: they are.
        """
        failures = [result for result in new_results.values() if isinstance(result, Failure)]
        self._results += len(new_results)
        self._failures += len(failures)

        is_hopeless = self._failures >= max(self.max_failures, _HOPELESS * self._results)
        if self.max_failures and failures and is_hopeless:
            raise StageFailed(
                f"The stage {self.name} failed on {self._failures} of {self._results} images, the last time "
                f"with: {failures[-1].error} - so the run was ended. What came before is kept: mend this and "
                "run again, or go on despite failures with --max-failures 0."
            )

    def release(self) -> None:
        """Free the model; it is loaded again on demand."""
        self.model.release()

    def close(self) -> None:
        """Close the files of the results; they are opened again on demand."""
        self.store.close()

    def _compute(self, requests: Sequence[InferenceRequest]) -> Iterator[dict[str, Any]]:
        """Yield the results of requests by key, a batch at a time."""
        if not requests:
            return

        # Inputs that have crashed too many processes are not run again.
        self._crashes = self.ledger.count_crashes()
        quarantined = [request for request in requests if self._is_quarantined(request)]
        if quarantined:
            yield {request.key: self._quarantine_failure() for request in quarantined}

        requests = [request for request in requests if not self._is_quarantined(request)]
        if not requests:
            return

        # A model that cannot be loaded fails on all requests, and is not tried again in this run.
        if self._load_failure is None:
            try:
                self.model.prepare()
            except Exception as error:  # models raise whatever they like
                # Another machine, or the next run, may have the weights.
                self._load_failure = as_failure(self.name, error).model_copy(update={"kind": "unavailable"})
                if self.max_failures:
                    raise StageFailed(
                        f"The stage {self.name} can't be loaded: {self._load_failure.error}"
                    ) from error

        if self._load_failure is not None:
            yield {request.key: self._load_failure for request in requests}
            return

        self.computed += len(requests)
        for batch in self._batches(requests):
            for results in self._run_batch(batch):
                # A suspect with a result has not crashed its process: clear it.
                for key, result in results.items():
                    if key in self._crashes and not isinstance(result, Failure):
                        self.ledger.clear(key)
                yield results

    def _batches(self, requests: Sequence[InferenceRequest]) -> list[Sequence[InferenceRequest]]:
        """Return the requests in batches. Suspects of a crash come last, each alone."""
        suspects = [request for request in requests if request.key in self._crashes]
        others = [request for request in requests if request.key not in self._crashes]

        batches: list[Sequence[InferenceRequest]] = []
        for start in range(0, len(others), self.batch_size):
            batches.append(others[start : start + self.batch_size])
        for request in suspects:
            batches.append([request])
        return batches

    def _run_batch(self, batch: Sequence[InferenceRequest]) -> Iterator[dict[str, Any]]:
        """Yield the results of a batch. If it fails, run each request alone, so that one spoils no other."""
        if len(batch) > 1:
            try:
                results = self._infer(batch)
            except Exception:  # whichever input it was, it fails again when it is run alone
                results = None
            if results is not None:
                yield results
                return

        for request in batch:
            yield {request.key: self._run_alone(request)}

    def _run_alone(self, request: InferenceRequest) -> Any:
        """Return the result of one request, or the `Failure` that it ends with."""
        # An input that ends its process is tried again, up to the maximum number of crashes.
        while not self._is_quarantined(request):
            try:
                return self._infer([request])[request.key]
            except ProcessEnded:
                self.ledger.record_crash([request.key])
                self._crashes[request.key] += 1
            except Exception as error:  # models raise whatever they like
                return as_failure(self.name, error)

        return self._quarantine_failure()

    def _infer(self, batch: Sequence[InferenceRequest]) -> dict[str, Any]:
        """Run the model on a batch, with its keys in the ledger meanwhile."""
        # If this process is killed now, the ledger tells the next run which inputs were running.
        with self.ledger.running([request.key for request in batch]):
            outputs = list(self.infer([request.input for request in batch]))
        if len(outputs) != len(batch):
            raise ValueError(f"{self.name} returned {len(outputs)} results for {len(batch)} images")

        results = {}
        for request, output in zip(batch, outputs, strict=True):
            # A model may return an exception for one input without failing the batch.
            results[request.key] = as_failure(self.name, output) if isinstance(output, Exception) else output

        return results

    def _is_quarantined(self, request: InferenceRequest) -> bool:
        return self._crashes[request.key] >= MAXIMUM_CRASHES

    def _quarantine_failure(self) -> Failure:
        folder = "/".join(self.ledger.crashes.parts[-4:])  # from the pipeline's output folder on
        return Failure(
            stage=self.name,
            error=f"crashed the process {MAXIMUM_CRASHES} times; delete {folder} to try again",
            kind="crashed",
        )


# --- results on disk --------------------------------------------------------------------------------------


def result_folder(root: Path, provenance: Provenance) -> Path:
    """Return the folder of a model's results: `root`/name/version-settings."""
    name, version = (quote(part, safe=" +@=,") for part in (provenance.expert, provenance.version))
    return root / name / f"{version}-{json_digest([provenance.settings])[:8]}"


# --- crashes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CrashLedger:
    """Notes about the processes that a model's inputs have crashed, as files beside its results.

    While a batch runs, a locked note in working/ holds its keys. The lock vanishes with its process, so a
    note that can be locked tells of a crash. Crashes are empty files in died/: KEY.CRASH_ID for an input that
    ran alone, KEY.batch for one of a batch, which is a suspect only.
    """

    folder: Path

    @property
    def crashes(self) -> Path:
        """Folder of the crashes of all inputs."""
        return self.folder / "died"

    @contextmanager
    def running(self, keys: Sequence[str]) -> Iterator[None]:
        """Leave a note while inputs run. It stays only if the process ends."""
        folder = self.folder / "working"
        folder.mkdir(parents=True, exist_ok=True)
        crash_id = uuid.uuid4().hex

        # The note gets its name when it is locked: before that, another process would take it for a crash.
        with (folder / f".{crash_id}.{crash_id[:12]}.json").open("w", encoding="utf-8") as file:
            with suppress(OSError):  # file systems without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            json.dump(list(keys), file)
            file.flush()
            note = Path(file.name).rename(folder / f"{crash_id}.json")

            try:
                yield
            finally:
                note.unlink(missing_ok=True)

    def count_crashes(self) -> Counter[str]:
        """Return how many processes each suspect has crashed while it ran alone; 0 for one of a batch."""
        for note in (self.folder / "working").glob("*.json"):
            if not note.name.startswith("."):  # another process is about to write it
                self._collect(note)

        # A suspect of a batch appears with 0 crashes, so that it is run alone.
        counts: Counter[str] = Counter()
        for path in self.crashes.glob("*.*"):
            key, _, crash_id = path.name.partition(".")
            counts[key] += 0 if crash_id == "batch" else 1

        return counts

    def record_crash(self, keys: Sequence[str], crash_id: str = "") -> None:
        """Note that a process ended while it ran these inputs. An id that is recorded again counts once."""
        if len(keys) > 1:
            crash_id = "batch"
        elif not crash_id:
            crash_id = uuid.uuid4().hex

        self.crashes.mkdir(parents=True, exist_ok=True)

        for key in keys:
            (self.crashes / f"{key}.{crash_id}").touch()

    def clear(self, key: str) -> None:
        """Forget the crashes of an input that has a result now."""
        for path in self.crashes.glob(f"{key}.*"):
            path.unlink(missing_ok=True)

    def _collect(self, note: Path) -> None:
        """Turn the note of a process that has ended into crashes."""
        try:
            with note.open("r+", encoding="utf-8") as file:
                if _is_locked(file):
                    return
                self.record_crash(json.load(file), crash_id=note.stem)
        except FileNotFoundError:  # another process was quicker
            return
        except ValueError:  # the machine went down before the note was on its disk
            pass

        note.unlink(missing_ok=True)


def _is_locked(file: IO[str]) -> bool:
    """Return whether a living process holds a file's lock; if not, take it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # file systems without locks
        return False

    return False


# --- time limits ------------------------------------------------------------------------------------------


class SubprocessWorker:
    """A model in a separate process, with a time limit for each call.

    Args:
        model: loaded in the other process, never in this one.
        infer: returns the results of a batch of inputs; a function or method that can be pickled.
        time_limit: seconds for each call. Loading the model has no limit.
    """

    def __init__(self, model: Model, infer: InferenceFunction, time_limit: float) -> None:
        self.model = model
        self.infer = infer
        self.time_limit = time_limit
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the process out: a copy starts its own."""
        return {**self.__dict__, "_process": None, "_connection": None}

    def prepare(self) -> None:
        """Start the process unless it runs, and load the model there.

        Raises:
            ModelFailed: the model cannot be loaded.
            ProcessEnded: its process ended meanwhile.
        """
        if self._process is not None:
            return

        # A server that has imported the experts forks a new process in milliseconds.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["monkeylib.captions.experts"])

        self._connection, worker_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(worker_end, self.model, self.infer), daemon=True)
        self._process.start()
        worker_end.close()

        try:
            self._receive(None)  # the outcome of loading
        except ModelFailed:
            self.release()
            raise

    def __call__(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """Return the results of a batch.

        Raises:
            ModelFailed: the model raised an exception.
            ProcessEnded: its process ended.
            TimeLimitExceeded: it took longer than the limit; its process has been killed.
        """
        self.prepare()
        assert self._connection is not None

        try:
            self._connection.send(list(inputs))
        except OSError as error:
            raise self._process_ended() from error

        return self._receive(self.time_limit)

    def release(self) -> None:
        """Kill the process."""
        if self._process is not None and self._connection is not None:
            self._connection.close()
            self._process.kill()
            self._process.join()

        self._process = None
        self._connection = None

    def _receive(self, time_limit: float | None) -> Any:
        assert self._connection is not None
        # A model that hangs can only be stopped with its process.
        if not self._connection.poll(time_limit):
            self.release()
            raise TimeLimitExceeded(f"no result within {time_limit:g} seconds")

        try:
            succeeded, value = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._process_ended() from error

        if not succeeded:
            raise ModelFailed(*value)
        return value

    def _process_ended(self) -> ProcessEnded:
        self.release()
        return ProcessEnded(f"the process of {self.model.name} ended")


def _serve(connection: Connection, model: Model, infer: InferenceFunction) -> None:
    """Load a model, then run it on batches until the other end closes the connection."""
    # A signal to the group, such as Ctrl-C, is not a crash of this model: the parent ends it.
    signals.obey_parent_alone()
    # The parent may be killed without closing the connection.
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    connection.send(_attempt(model.prepare))

    while True:
        try:
            inputs = connection.recv()
        except EOFError:
            return
        connection.send(_attempt(lambda inputs=inputs: list(infer(inputs))))


def _attempt(step: Callable[[], Any]) -> tuple[bool, Any]:
    """Return whether a step succeeded, and its result or the text and the kind of its exception."""
    try:
        return True, step()
    except Exception as error:  # models raise whatever they like, also what cannot be pickled
        return False, (f"{type(error).__name__}: {error}", failure_kind(error))


def _exit_with_parent() -> None:
    """End this process, even if its model hangs, when the parent ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
