"""Callbacks and curves of a training run: throughput, memory, sample answers, preemption."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment
from torch import Tensor

from monkeylib import resources
from monkeylib.data.records import Record
from monkeylib.inference import Monkey
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.training import memory
from monkeylib.training.batches import ExampleEncoder

# --- throughput and memory


class Throughput(L.Callback):
    """Log images and tokens per second since the last log, and the highest memory so far."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self.start, self.images, self.tokens = time.perf_counter(), 0, 0

    def on_train_start(self, *_: Any) -> None:
        """Start the clock."""
        self._restart()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: dict[str, Tensor],
        batch_idx: int,
    ) -> None:
        """Count a micro-batch, and log when Lightning does."""
        # One grid per image. An example without images has none.
        self.images += len(batch.get("grids", ()))
        self.tokens += int(batch["tokens"])

        seconds = time.perf_counter() - self.start

        # Every process does about as much, so the world size scales its own counts.
        rates = {
            "speed/images_per_second": self.images * trainer.world_size / seconds,
            "speed/tokens_per_second": self.tokens * trainer.world_size / seconds,
            "memory/peak_gib": _peak_bytes() / 2**30,
        }
        module.log_dict(rates, batch_size=1)

        if trainer.global_step % trainer.log_every_n_steps == 0:
            self._restart()


def _peak_bytes() -> int:
    """Return the most that the GPU's allocator, or else the process, has held."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kilobytes


class MemoryUse(L.Callback):
    """Measure one optimiser step, and write it to `memory.json` with the estimate of `memory.count_step`.

    If the estimate fails, it is left out with a warning, and the run goes on.

    The step is the first after a start at which AdamW's moments exist (the second step of a new run).

    A GPU's allocator reports its peak. On a CPU tensors are counted while they live, which takes a single
    process: with several, nothing is measured there.
    """

    def __init__(self, folder: Path):
        self.file = folder / memory.FILE
        self.step = -1
        self.tracker: memory.AllocationTracker | None = None
        self.micro_batches: list[dict[str, Any]] = []

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Choose the step."""
        self.step = max(1, trainer.global_step)

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        """Start to measure with the first micro-batch of the step."""
        # Count in one step alone. Several processes on CPUs share a machine and are left out.
        on_gpu = module.device.type == "cuda"
        if trainer.global_step != self.step or not (on_gpu or trainer.world_size == 1):
            return

        if not self.micro_batches:
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(module.device)
            else:
                self._start_tracking(trainer, module)

        # The batch was made by the data loader, before the tracker was entered.
        if self.tracker:
            self.tracker.add_all(batch)
        self.micro_batches.append(memory.without_values(batch))

    def _start_tracking(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.tracker = memory.AllocationTracker()
        # What exists already: weights and AdamW's moments.
        self.tracker.add_all(module.model.state_dict())
        self.tracker.add_all(trainer.optimizers[0].state)
        self.tracker.__enter__()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Write the measurement when the step is done."""
        if not self.micro_batches or trainer.global_step <= self.step:
            return

        measured = self.tracker.peak if self.tracker else torch.cuda.max_memory_allocated(module.device)
        self._stop_tracking()

        micro_batches, self.micro_batches = self.micro_batches, []
        if not trainer.is_global_zero:
            return

        # The same step on fake tensors, with the shapes of the micro-batches just seen.
        result = {"step": self.step + 1, "measured": measured}
        estimated = self._estimate(trainer, module, micro_batches)
        if estimated is not None:
            result["estimated"] = estimated

        with resources.atomic_write(self.file) as temporary:
            temporary.write_text(json.dumps(result) + "\n", encoding="utf-8")

    def _estimate(
        self, trainer: L.Trainer, module: L.LightningModule, micro_batches: list[dict[str, Any]]
    ) -> int | None:
        """Count the same step on fake tensors; return its peak in bytes, None if it can't be counted."""
        try:
            estimate = memory.count_step(
                module.profile,
                micro_batches,
                config=module.model.config,
                devices=trainer.world_size,
                on_gpu=module.device.type == "cuda",
            )
        # Whatever fails here, an operation without a fake kernel or a full memory: the run itself is sound.
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            warnings.warn(
                f"The memory of a training step could not be estimated, so {memory.FILE} holds only what was "
                f"measured: {reason}",
                stacklevel=2,
            )
            return None

        return estimate.peak

    def on_exception(self, *_: Any) -> None:
        """Stop counting."""
        self._stop_tracking()

    def _stop_tracking(self) -> None:
        if self.tracker:
            self.tracker.__exit__(None, None, None)
            self.tracker = None


# --- sample answers


class SampleAnswers(L.Callback):
    """Generate answers to the first question of some validation records at each validation, and append them
    to a JSON-lines file."""

    def __init__(self, file: Path, max_new_tokens: int, count: int = 4):
        self.file, self.max_new_tokens, self.count = file, max_new_tokens, count

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Generate on every process, since a sharded model needs them all; the first one writes."""
        data = module.data
        if data.validation is None:
            return

        # The same first records at each validation, so that answers can be compared.
        count = self.count
        if data.num_validation_records is not None:
            count = min(count, data.num_validation_records)
        records = [data.validation[data.validation_offset + index] for index in range(count)]
        rows = [self._answer(module, record, trainer.global_step) for record in records if record.images]

        if trainer.is_global_zero:
            self._append(rows, trainer.global_step)

    def _answer(self, module: L.LightningModule, record: Record, step: int) -> dict[str, Any]:
        """Generate the answer to a record's first question."""
        encoder = ExampleEncoder(module.processor, module.profile.training.max_length)
        # The prompt ends where the first labelled token begins.
        example = encoder.encode(record)
        first_label = int((example.labels != IGNORE_INDEX).nonzero()[0])
        input_ids = example.input_ids[None, :first_label]

        inputs = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            **encoder.encode_images(example),
        }
        inputs = {name: tensor.to(module.device) for name, tensor in inputs.items()}

        # Processes with a shard each go on until the longest of their answers is complete, since each step
        # needs all of them: with answers of different lengths they would wait for each other forever.
        is_sharded = module.profile.training.strategy == "fsdp"
        monkey = Monkey(module.model, module.processor)
        prediction = monkey.generate(inputs, self.max_new_tokens, synced_gpus=is_sharded)[0]

        prompt, answer = record.turns[0]
        return {"step": step, "id": record.id, "prompt": prompt, "answer": answer, "prediction": prediction}

    def _append(self, rows: list[dict[str, Any]], step: int) -> None:
        """Append rows, in place of those that an interrupted run has written for the same step."""
        lines: list[str] = []
        if self.file.exists():
            lines = self.file.read_text(encoding="utf-8").splitlines(True)

        # A resumed run repeats the steps after its last checkpoint.
        lines = [line for line in lines if json.loads(line)["step"] != step]
        lines += [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]

        with resources.atomic_write(self.file) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")


# --- preemption

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


# --- curves

SPLITS = ("train", "val")


class ResumedCSVLogger(CSVLogger):
    """CSV logger that continues the `metrics.csv` of an interrupted run, which Lightning's own deletes.

    Steps that the interrupted run had logged after its last checkpoint are logged again, with the same
    numbers; `read_curves` takes them once.

    A row is missing in two cases. A preempted run that was killed before the validation of its last step was
    complete lacks that validation. Where nothing is validated, a run that was killed between a checkpoint
    and its row lacks the row.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return the writer of the file, which keeps the rows that it finds."""
        if self._experiment is None:
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = _ResumedWriter(str(self.log_dir))
        return self._experiment


class _ResumedWriter(ExperimentWriter):
    """Writer that keeps existing rows and adds columns in one move.

    Lightning's own deletes existing rows, and loses all of them when it is killed while it adds a column.
    """

    def _check_log_dir_exists(self) -> None:
        file = Path(self.metrics_file_path)
        # The last line of a killed run may be cut off: DictReader gives None for what it lacks.
        rows = [row for row in _read_rows(file) if None not in row.values()] if file.exists() else []
        if rows:
            # Lightning compares new rows with these columns.
            self.metrics_keys = list(rows[0])
            self._write(rows, self.metrics_keys)
        else:
            file.unlink(missing_ok=True)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(_read_rows(Path(self.metrics_file_path)), fieldnames)

    def _write(self, rows: Sequence[dict[str, str]], columns: list[str]) -> None:
        with (
            resources.atomic_write(Path(self.metrics_file_path)) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


def read_curves(file: Path) -> list[dict[str, str | int | float]]:
    """Return rows of `part` (train or val), `step`, `loss` and `exact` from a `metrics.csv`, by step.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not file.exists():
        raise FileNotFoundError(f"There are no curves at {file}: train first.")

    # A row holds what was logged at once: training or validation, or neither.
    row_of_step: dict[tuple[str, int], dict[str, str]] = {}
    for row in _read_rows(file):
        for split in SPLITS:
            if row.get(f"{split}/loss"):
                row_of_step[split, int(row["step"])] = row

    return [
        {
            "part": split,
            "step": step + 1,  # Lightning counts steps from 0
            "loss": float(row[f"{split}/loss"]),
            "exact": float(row[f"{split}/exact"]),
        }
        for (split, step), row in sorted(row_of_step.items())
    ]


def _read_rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))
