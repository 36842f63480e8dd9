"""Signals to a training run: it completes the running step, saves it, and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import Any, Self

import lightning as L
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from lightning.pytorch.utilities import rank_zero_only

from monkeylib import resources, signals
from monkeylib.signals import EXIT_SAVED, Interrupted
from monkeylib.training import checkpointing
from monkeylib.training.checkpointing import save_checkpoint

# A controller that is restarted may be silent.
_SCONTROL_SECONDS = 60

# Two interrupts of a notebook within it are one.
_SAME_CLICK_SECONDS = 1.0


class StoppedAsPlanned(Interrupted):
    """A run has come to the step after which it was to stop."""


def _hide_how_to_exit() -> None:
    """Until the end of the running cell, hide how IPython is left: it takes `Interrupted`, which would end a
    script, for the wish to do so."""
    from IPython import get_ipython

    events = get_ipython().events
    hidden = warnings.catch_warnings()
    hidden.__enter__()
    warnings.filterwarnings("ignore", message="To exit: use", module="IPython")

    def show_again(*_: Any) -> None:
        events.unregister("post_run_cell", show_again)
        hidden.__exit__(None, None, None)

    events.register("post_run_cell", show_again)


class StopOnSignal(L.Callback):
    """End a run at SIGINT, SIGTERM or SIGUSR1, after the running step, which is saved.

    Whichever process gets the signal, all of them save the same step and end with `signals.EXIT_SAVED`. The
    first process puts a SLURM job back into its queue, unless the signal was SIGINT, which a user sends. A
    further SIGINT ends the process at once, in a notebook the cell alone; the run then goes on from its last
    checkpoint.

    Handlers are installed while the block is entered:

        with StopOnSignal() as stop:
            trainer = L.Trainer(callbacks=[..., stop])
            trainer.fit(...)
            ...                          # save the trained model: there is no further step to stop after

    Args:
        stop_after: a step after which the run ends in the same way, without a signal.
    """

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.number: int | None = None
        self._first = 0.0  # time of the first signal
        self._saved = self._requeues = False
        self._trainer: L.Trainer | None = None
        self._handlers = ExitStack()

    # --- handlers

    def __enter__(self) -> Self:
        self._handlers.enter_context(signals.handle(self._handle))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handlers.close()
        if kind is not None and issubclass(kind, Interrupted) and resources.in_notebook():
            _hide_how_to_exit()

    def _handle(self, number: int, _: FrameType | None) -> None:
        """Note the first signal. A further SIGINT ends at once, in a notebook the cell alone."""
        if self.number is not None:
            if number == signal.SIGINT and not resources.in_notebook():
                self._end_at_once()
            # One click too many in a second is no wish to lose the step.
            elif number == signal.SIGINT and time.monotonic() - self._first > _SAME_CLICK_SECONDS:
                raise Interrupted(f"ended at once{self._what_follows()}", signals.exit_code(number))
            return

        self.number, self._first = number, time.monotonic()
        if number != signal.SIGINT or rank_zero_only.rank != 0:
            return
        # A user waits for the step. On a terminal, the main thread may be printing: its buffer is not used.
        if resources.in_notebook():
            print("\ncompleting and saving the running step; interrupt again to end at once", file=sys.stderr)
        elif sys.stderr.isatty():
            os.write(2, b"\nmonkeylib: completing and saving the running step; Ctrl-C again ends at once\n")

    def _end_at_once(self) -> None:
        """End this process and those that it has started, without saving."""
        launcher = self._trainer.strategy.launcher if self._trainer else None
        # Without their first process, the others would wait for it until their timeout.
        if launcher is not None:
            launcher.kill(signal.SIGKILL)

        if rank_zero_only.rank == 0:
            os.write(2, f"monkeylib: ended at once{self._what_follows()}\n".encode())
        os._exit(signals.exit_code(signal.SIGINT))

    def _what_follows(self) -> str:
        folder = self._trainer.default_root_dir if self._trainer else None
        is_saved = folder is not None and checkpointing.list_checkpoints(folder)
        return "; run it again to go on from the last checkpoint" if is_saved else ""

    # --- callback

    def setup(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        """Keep Lightning from replacing the handlers when training starts.

        Its own handler of SIGTERM raises an exception within a step, and waits for the other processes
        within the handler.
        """
        self._trainer = trainer
        trainer._signal_connector = _NoHandlers(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after a complete step, if any process has got a signal or this is the step to stop after."""
        if (batch_idx + 1) % module.accumulation_steps:
            return

        if trainer.global_step == self.stop_after:
            save_checkpoint(trainer)
            return

        # A scheduler may signal one process only; all of them have to save at the same step.
        if trainer.strategy.reduce_boolean_decision(self.number is not None, all=False):
            save_checkpoint(trainer)
            by_scheduler = self.number not in (None, signal.SIGINT)
            self._requeues = trainer.strategy.reduce_boolean_decision(by_scheduler, all=False)
            self._saved = True

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """End the run, now that the saved step is logged and validated too.

        Raises:
            Interrupted: the step before this one is saved.
            StoppedAsPlanned: it is the one to stop after.
        """
        # A run that resumes may have got there before.
        is_far_enough = self.stop_after is not None and trainer.global_step >= self.stop_after
        if not self._saved and not is_far_enough:
            return

        kind, cause = Interrupted, "interrupted by a signal to another process"
        if self.number is not None:
            cause = f"interrupted by {signals.name(self.number)}"
        elif is_far_enough:
            kind, cause = StoppedAsPlanned, "stopped as planned"

        error = kind("", EXIT_SAVED)
        if trainer.is_global_zero:
            saved = f"after step {trainer.global_step}, which is saved: run it again to go on from there"
            error = kind(f"{cause} {saved}" + (_requeue() if self._requeues else ""), EXIT_SAVED)

        # SLURM ends all processes when the first one ends, and none may end before the job is requeued.
        trainer.strategy.barrier()

        # Lightning kills all processes when one that it has started itself fails.
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if not trainer.is_global_zero and isinstance(environment, LightningEnvironment):
            error.code = 0
        raise error


class _NoHandlers(_SignalConnector):
    """Lightning's signal handlers, none of which is installed."""

    def register_signal_handlers(self) -> None:
        """Install nothing."""


def _requeue() -> str:
    """Put the SLURM job of this process back into its queue; return what came of it, to end a sentence."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return ""

    try:
        subprocess.run(
            ["scontrol", "requeue", job],
            check=True,
            capture_output=True,
            text=True,
            timeout=_SCONTROL_SECONDS,
        )
    except FileNotFoundError:
        return f"; job {job} was not requeued, since there is no scontrol here"
    except subprocess.TimeoutExpired:
        return f"; job {job} was not requeued: scontrol has not answered for {_SCONTROL_SECONDS} seconds"
    except subprocess.CalledProcessError as error:
        return f"; job {job} was not requeued: {' '.join(error.stderr.split())}"
    return f"; job {job} is requeued"
