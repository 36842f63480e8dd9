"""Signals to a training run: it completes the running step, saves, and ends."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import lightning as L

PREEMPTION_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class Preempted(SystemExit):
    """A preempted run has saved itself and ends, to be resumed when it is called again."""


class Preemption(L.Callback):
    """Checkpoint and requeue on preemption.

    On SIGUSR1 or SIGTERM to any of the processes, the running step is completed and saved, and the first
    process puts a SLURM job back into its queue. Lightning's own handler saves in the middle of a step.
    """

    def __init__(self) -> None:
        self.signalled = self.saved = False
        self._previous_handlers: dict[int, Any] = {}

    def on_fit_start(self, *_: Any) -> None:
        """Install the signal handlers."""
        self._previous_handlers = {
            number: signal.signal(number, self._on_signal) for number in PREEMPTION_SIGNALS
        }

    def _on_signal(self, *_: Any) -> None:
        self.signalled = True

    def teardown(self, *_: Any, **__: Any) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after a complete step, if any process was signalled."""
        if (batch_idx + 1) % module.accumulation_steps:
            return

        # A scheduler may signal one process only; all of them have to save at the same step.
        if trainer.strategy.reduce_boolean_decision(self.signalled, all=False):
            trainer.save_checkpoint(os.path.join(trainer.default_root_dir, "last.ckpt"))
            self.saved = True

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """End the run, now that the saved step is logged too."""
        if not self.saved:
            return

        job = os.environ.get("SLURM_JOB_ID")
        if job and trainer.is_global_zero:
            subprocess.run(["scontrol", "requeue", job], check=True)

        self.teardown()
        raise Preempted(
            f"Interrupted after step {trainer.global_step}: call the same command again to resume the run."
        )
