"""What a training run says of itself: what it trains on and where, then step, loss, rates and time left."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch

from monkeylib import resources
from monkeylib.data.lost_characters import LostCharacters
from monkeylib.data.records import BadRecord
from monkeylib.processing import MonkeyProcessor
from monkeylib.progress import Progress, format_rate, say
from monkeylib.training.batches import TrainingData
from monkeylib.training.callbacks import peak_bytes

# Records that are read at the start to find characters that the tokenizer loses.
SAMPLED_RECORDS = 200

# Warnings of libraries that are wrong here: the beginning of the message, and why.
WRONG_WARNINGS = (
    # Lightning's own code calls what PyTorch deprecates.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # Without validation, there is no loader for it.
    r"Total length of `list` across ranks is zero",
    # The loader starts at the first micro-batch that the run has not seen (`MicroBatches`).
    r"You're resuming from a checkpoint that ended before the epoch ended and your dataloader is not",
)


class TrainingProgress(L.Callback):
    """Report a run: one line about device, data and folder, then the progress of its steps.

    Args:
        folder: folder of the run.
        enabled: whether to report anything.
    """

    def __init__(self, folder: Path, enabled: bool = True) -> None:
        self.folder, self.enabled = folder, enabled
        self._progress: Progress | None = None
        self._step = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Write the first line."""
        if not (self.enabled and trainer.is_global_zero):
            return

        self._progress = Progress("steps").__enter__()
        self._progress.print(describe_run(trainer, module, self.folder))

        self._step = self._first_step = trainer.global_step
        self._start = time.perf_counter()
        self._progress.add_task("step", trainer.max_steps, self._step)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Count a step when its last micro-batch is complete."""
        if self._progress is None or trainer.global_step == self._step:
            return

        self._step = trainer.global_step
        # Reading a loss waits for the device, so it is read where it is displayed.
        if self._progress.is_due("step"):
            losses = {name: trainer.callback_metrics.get(f"{name}/loss") for name in ("train", "val")}
            values = [f"{name} loss {float(loss):.4f}" for name, loss in losses.items() if loss is not None]

            steps_per_second = (self._step - self._first_step) / (time.perf_counter() - self._start)
            values.append(f"{format_rate(steps_per_second * module.profile.training.batch_size)} rows/s")
            values.append(f"{peak_bytes() / 2**30:.1f} GiB")
            self._progress.set_values("step", *values)

        self._progress.advance("step")

    def on_train_end(self, *_: Any) -> None:
        """End the display."""
        self._close()

    def on_exception(self, *_: Any) -> None:
        """End the display."""
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None


def describe_run(trainer: L.Trainer, module: L.LightningModule, folder: Path) -> str:
    """Return a line about the devices, the data, the steps and the folder of a run."""
    device = module.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    training, data = module.profile.training, module.data

    # Synthetic data has no end.
    records = f"{len(data.train)} records" if hasattr(data.train, "__len__") else "synthetic records"
    first = f"steps {trainer.global_step + 1} to" if trainer.global_step else "steps 1 to"
    micro_batch = f" in micro-batches of {training.micro_batch_size}" if training.micro_batch_size else ""
    return (
        f"train on {trainer.world_size} x {name}: {records}, {first} {trainer.max_steps} of "
        f"{training.batch_size} rows each{micro_batch}, into {resources.display_path(folder)}"
    )


def report_lost_characters(data: TrainingData, processor: MonkeyProcessor, is_silent: bool = False) -> None:
    """Write a sentence about characters that the tokenizer loses in a sample of the records, if any.

    Synthetic data is written for its tokenizer.

    Args:
        data: the records.
        processor: with the tokenizer.
        is_silent: write nothing. Every process checks, so that all of them end where one does.

    Raises:
        ValueError: most answers cannot be learned.
    """
    if not hasattr(data.train, "__len__"):
        return

    lost = LostCharacters(processor.layout)
    # A mixture is in random order: its first records are a sample.
    for index in range(min(SAMPLED_RECORDS, len(data.train))):
        with suppress(BadRecord):  # which is reported when training meets it
            lost.add_record(data.train[data.offset + index])

    lost.check()
    if (sentence := lost.describe()) and not is_silent:
        say(sentence)


@contextmanager
def without_wrong_warnings() -> Iterator[None]:
    """Leave out warnings of other libraries that are wrong here (`WRONG_WARNINGS`), and no others."""
    with warnings.catch_warnings():
        for message in WRONG_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield
