"""Checkpoints of a training run: when they are saved, and how."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import lightning as L

from monkeylib import resources


class SaveCheckpoints(L.Callback):
    """Save `last.ckpt` after the first step and every `every` steps, and `best.ckpt` at the lowest loss.

    Each file is checked after it is written, since Lightning hides some failures to write. Saving after the
    first step makes a full or read-only disk stop the run at once.

    A step that is validated is saved after its validation. A run that is killed during the validation
    repeats the step, and validates it.
    """

    def __init__(self, folder: Path, every: int):
        self.folder, self.every, self.best_loss = folder, every, math.inf

    def state_dict(self) -> dict[str, Any]:
        """Return the lowest validation loss so far."""
        return {"best": self.best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the lowest validation loss."""
        self.best_loss = state_dict["best"]

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save between two optimiser steps, when it is due."""
        # Lightning calls this after every micro-batch; a step is complete after the last of them.
        step = trainer.global_step
        step_is_complete = (batch_idx + 1) % module.accumulation_steps == 0
        due = step_is_complete and (step == 1 or step % self.every == 0)
        validated = module.data.validation is not None and (batch_idx + 1) % trainer.val_check_batch == 0

        if due and not validated:
            self._save(trainer, self.folder / "last.ckpt")

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save, and also as the best checkpoint where the loss is the lowest so far."""
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and float(loss) < self.best_loss:
            self.best_loss = float(loss)
            self._save(trainer, self.folder / "best.ckpt")

        self._save(trainer, self.folder / "last.ckpt")

    def _save(self, trainer: L.Trainer, path: Path) -> None:
        trainer.save_checkpoint(path)

        # A checkpoint is a zip file, or of FSDP a folder with a `meta.pt`.
        if trainer.is_global_zero and not (is_zipfile(path) or (path / "meta.pt").is_file()):
            raise OSError(
                f"The checkpoint {resources.display_path(path)} could not be written: check the disk's space "
                "and rights."
            )
