"""What happens beside the steps: checkpoints that are known to be readable, speed and memory, sample
answers."""

from __future__ import annotations

import csv
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment
from torch import Tensor

from monkeylib import resources
from monkeylib.data.records import Record
from monkeylib.inference import Monkey
from monkeylib.prompts import IGNORE_INDEX
from monkeylib.training.data import RowMaker


class Checkpoints(L.Callback):
    """`last.ckpt` after the first step and then every `every` steps, and `best.ckpt` at the lowest validation
    loss, each read back after it is written.

    A disk that is full or must not be written to is so known at once, not when the first checkpoint is due:
    Lightning writes in one move, but hides some failures to write. Where a step is validated, it is saved
    after that: a run that is killed within the validation does the step again, and the validation too.
    """

    def __init__(self, folder: Path, every: int):
        self.folder, self.every, self.best = folder, every, math.inf

    def state_dict(self) -> dict[str, Any]:
        """The lowest validation loss so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with it."""
        self.best = state_dict["best"]

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, number: int
    ) -> None:
        """Save when it is time, between two optimiser steps."""
        step = trainer.global_step
        validated = module.data.validation is not None and (number + 1) % trainer.val_check_batch == 0
        due = (number + 1) % module.passes == 0 and (step == 1 or step % self.every == 0)
        if due and not validated:
            self._save(trainer, self.folder / "last.ckpt")

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save, and also as the best if it is."""
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and float(loss) < self.best:
            self.best = float(loss)
            self._save(trainer, self.folder / "best.ckpt")
        self._save(trainer, self.folder / "last.ckpt")

    def _save(self, trainer: L.Trainer, file: Path) -> None:
        trainer.save_checkpoint(file)
        if trainer.is_global_zero and not (is_zipfile(file) or (file / "meta.pt").is_file()):
            raise OSError(
                f"The checkpoint {resources.display_path(file)} could not be written: check the disk's space and rights."
            )


class Speed(L.Callback):
    """Logs images and tokens per second and the highest memory so far, over the steps since the last log."""

    def __init__(self) -> None:
        self.since, self.images, self.tokens = time.perf_counter(), 0, 0

    def on_train_start(self, *_: Any) -> None:
        """Start the clock."""
        self.since, self.images, self.tokens = time.perf_counter(), 0, 0

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: dict[str, Tensor],
        number: int,
    ) -> None:
        """Count, and log when Lightning does."""
        self.images += len(batch.get("grids", ()))
        self.tokens += int(batch["tokens"])
        seconds = time.perf_counter() - self.since
        devices = trainer.world_size
        measured = {
            "speed/images_per_second": self.images * devices / seconds,
            "speed/tokens_per_second": self.tokens * devices / seconds,
            "memory/peak_gib": _peak_bytes() / 2**30,
        }
        module.log_dict(measured, batch_size=1)
        if trainer.global_step % trainer.log_every_n_steps == 0:
            self.on_train_start()


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


class SampleAnswers(L.Callback):
    """Asks the model the first question of some validation records whenever it is validated, and appends what
    it says to `answers.jsonl`."""

    def __init__(self, file: Path, max_new_tokens: int, count: int = 4):
        self.file, self.max_new_tokens, self.count = file, max_new_tokens, count

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Generate on every process, since a sharded model needs them all; the first one writes.

        Sharded processes take as many steps as the longest of their answers, since each step needs all of
        them: where their answers differed in length, they waited for each other for ever.
        """
        data = module.data
        if data.validation is None:
            return
        count = self.count if data.validation_rows is None else min(self.count, data.validation_rows)
        records = [data.validation[data.validation_offset + number] for number in range(count)]
        records = [record for record in records if record.images]
        lines = [
            json.dumps(self._ask(module, r, trainer.global_step), ensure_ascii=False) + "\n" for r in records
        ]
        if trainer.is_global_zero:
            earlier = self.file.read_text(encoding="utf-8").splitlines(True) if self.file.exists() else []
            kept = [line for line in earlier if json.loads(line)["step"] != trainer.global_step]
            with resources.atomic_write(
                self.file
            ) as unfinished:  # a resumed run asks again what it had asked
                unfinished.write_text("".join(kept + lines), encoding="utf-8", errors="backslashreplace")

    def _ask(self, module: L.LightningModule, record: Record, step: int) -> dict[str, Any]:
        maker = RowMaker(module.processor, module.profile.training.max_length)
        row = maker.encode(record)
        asked = row.encoded.ids[: int((row.encoded.labels != IGNORE_INDEX).nonzero()[0])]
        inputs = {
            "input_ids": asked[None],
            "attention_mask": torch.ones_like(asked[None]),
            **maker.views(row),
        }
        inputs = {name: tensor.to(module.device) for name, tensor in inputs.items()}
        sharded = module.profile.training.strategy == "fsdp"
        monkey = Monkey(module.model, module.processor)
        said = monkey.generate(inputs, self.max_new_tokens, synced_gpus=sharded)[0]
        prompt, answer = record.turns[0]
        return {"step": step, "id": record.id, "prompt": prompt, "answer": answer, "prediction": said}


PARTS = ("train", "val")


class ResumedCSVLogger(CSVLogger):
    """Goes on with the `metrics.csv` that an interrupted run has left, which Lightning's own logger deletes.

    Steps that the interrupted run had logged after its last checkpoint are then logged again, with the same
    numbers; `read_curves` takes them once. A row is missing in two cases: a preempted run that was killed
    before the validation of its last step was done lacks that validation; and where nothing is validated, one
    killed in the moment between a checkpoint and its row lacks the row.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of the file, which keeps the earlier rows."""
        if self._experiment is None:
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = _Writer(str(self.log_dir))
        return self._experiment


class _Writer(ExperimentWriter):
    """Keeps the rows that are there, and takes up new columns in one move: Lightning's own deletes the ones,
    and loses all rows when it is killed during the other."""

    def _check_log_dir_exists(self) -> None:
        file = Path(self.metrics_file_path)
        rows = [row for row in _rows(file) if None not in row.values()] if file.exists() else []  # none torn
        if rows:
            self.metrics_keys = list(rows[0])
            self._write(rows, self.metrics_keys)
        else:
            file.unlink(missing_ok=True)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(_rows(Path(self.metrics_file_path)), fieldnames)

    def _write(self, rows: Sequence[dict[str, str]], columns: list[str]) -> None:
        with resources.atomic_write(Path(self.metrics_file_path)) as unfinished:
            with unfinished.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(rows)


def read_curves(file: Path) -> list[dict[str, str | int | float]]:
    """Rows `part` (train or val), `step`, `loss` and `exact` of a `metrics.csv`, in the order of steps.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not file.exists():
        raise FileNotFoundError(f"There are no curves at {file}: train first.")
    found = {
        (part, int(row["step"])): row
        for row in _rows(file)
        for part in PARTS
        if row.get(f"{part}/loss")  # a row holds what was logged at once: training or validation
    }
    return [
        {
            "part": part,
            "step": step + 1,  # steps taken: Lightning counts from 0
            "loss": float(row[f"{part}/loss"]),
            "exact": float(row[f"{part}/exact"]),
        }
        for (part, step), row in sorted(found.items())
    ]


def _rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


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
