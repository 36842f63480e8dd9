"""The command line in a process of its own, with limits of time and memory.

Processes are forked from a server that has imported the library, so that a case takes a second and not ten.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.training_processes import SERVER

# One server for all processes of the torture, also for those that train together.
SERVER.set_forkserver_preload(
    [
        "tests.torture.sandbox",
        "tests.support.training_processes",
        "lightning.pytorch",
        "monkeylib.cli.app",
        "monkeylib.inference",
        "monkeylib.training.finetune",
        "monkeylib.evaluation.predict",
        "monkeylib.captions.pipeline",
        "monkeylib.data.mixture",
    ]
)

MEMORY = 3 << 30  # bytes that a command may take beyond what its process begins with


@dataclass(frozen=True)
class Outcome:
    """What became of a command.

    Fields:
        code: exit code; negative for the signal that ended it, None if it ran out of time.
        output: what it wrote to standard output and standard error.
        seconds: how long it ran.
    """

    code: int | None
    output: str
    seconds: float

    @property
    def is_one_sentence(self) -> bool:
        """Whether it ended with exit code 2 and one sentence, without a traceback."""
        lines = [line for line in self.output.splitlines() if line.startswith("monkeylib: ")]
        return self.code == 2 and len(lines) == 1 and len(lines[0]) < 1200 and not self.has_traceback

    @property
    def has_traceback(self) -> bool:
        """Whether Python's traceback got out."""
        return "Traceback (most recent call last)" in self.output

    @property
    def last_line(self) -> str:
        """The last line that it wrote."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return lines[-1] if lines else ""


class Command:
    """A `monkeylib` command that runs in the background.

    Args:
        arguments: what follows `monkeylib` on the command line, or a function to call in its place.
        folder: working folder.
        environment: variables beside those of this process.
        memory: bytes that it may take, without a limit if None.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path] | Callable[[], None],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        memory: int | None = MEMORY,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Not in the folder, whose disk may be full.
        descriptor, log = tempfile.mkstemp(prefix="torture-output-")
        os.close(descriptor)
        self.log = Path(log)
        self.start_time = time.monotonic()
        variables = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
        variables |= {"MONKEYLIB_OUTPUTS": str(folder)} | dict(environment or {})
        self.process = SERVER.Process(target=_run, args=(self.log, arguments, folder, variables, memory))
        self.process.start()

    def send(self, number: int, group: bool = False) -> None:
        """Send a signal to the process, or to it and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.process.pid, number)

    def has_ended(self) -> bool:
        """Return whether it has ended."""
        return self.process.exitcode is not None

    def wait(self, seconds: float = 120) -> Outcome:
        """Return its outcome; end it when the time is up."""
        self.process.join(seconds)
        code = self.process.exitcode
        if code is None:
            self.send(signal.SIGKILL, group=True)
            self.process.join()

        output = self.log.read_text(errors="replace")
        self.log.unlink()
        return Outcome(code, output, time.monotonic() - self.start_time)


def run(
    arguments: Sequence[str | Path] | Callable[[], None], folder: Path, seconds: float = 120, **options
) -> Outcome:
    """Run a command to its end."""
    return Command(arguments, folder, **options).wait(seconds)


def _run(
    log: Path,
    arguments: Sequence[str | Path] | Callable[[], None],
    folder: Path,
    variables: dict[str, str],
    memory: int | None,
) -> None:
    import torch

    from monkeylib.cli import app

    # A group of its own, so that a signal to the group reaches its workers and nobody else.
    os.setsid()
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.stdin = open(os.devnull, encoding="utf-8")

    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    torch.set_num_threads(1)

    if memory is not None:
        limit = _virtual_memory() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    if callable(arguments):
        arguments()
        return

    sys.argv = ["monkeylib", *(str(argument) for argument in arguments)]
    app.main()


def _virtual_memory() -> int:
    """Return the bytes of address space that this process has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")
