"""Give way when the scheduler asks: save between two steps, queue again, end."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import lightning as L

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class Preempted(SystemExit):
    """The run has saved itself and ends, to go on when it is called again."""


class Preemption(L.Callback):
    """On SIGUSR1 or SIGTERM to any of the processes, the running step is finished and saved; the first
    process puts a SLURM job back into its queue. Lightning's own handler saves in the middle of a step."""

    def __init__(self) -> None:
        self.asked = self.saved = False
        self._before: dict[int, Any] = {}

    def on_fit_start(self, *_: Any) -> None:
        """Listen."""
        self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}

    def _ask(self, *_: Any) -> None:
        self.asked = True

    def teardown(self, *_: Any, **__: Any) -> None:
        """Leave the signals to whom they belonged."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, number: int
    ) -> None:
        """Save, if some process was asked to."""
        if (number + 1) % module.passes or not trainer.strategy.reduce_boolean_decision(
            self.asked, all=False
        ):
            return
        trainer.save_checkpoint(os.path.join(trainer.default_root_dir, "last.ckpt"))
        self.saved = True

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """End, now that the step which was saved is logged too."""
        if not self.saved:
            return
        job = os.environ.get("SLURM_JOB_ID")
        if job and trainer.is_global_zero:
            subprocess.run(["scontrol", "requeue", job], check=True)
        self.teardown()
        raise Preempted(
            f"Interrupted after step {trainer.global_step}: called again, the run goes on from there."
        )
