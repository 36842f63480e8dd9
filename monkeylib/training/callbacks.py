"""Callbacks of a training run: throughput, memory, sample answers."""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from monkeylib import resources
from monkeylib.data.records import BadRecord, Record
from monkeylib.model.context import context_length
from monkeylib.profiles import Profile
from monkeylib.training import memory

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
            "memory/peak_gib": peak_bytes() / 2**30,
        }
        module.log_dict(rates, batch_size=1)

        if trainer.global_step % trainer.log_every_n_steps == 0:
            self._restart()


def peak_bytes() -> int:
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
        # The base of a raised model is none that is built on fake tensors.
        if not isinstance(module.profile, Profile):
            return None
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

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Drop answers that an interrupted run has written after its last checkpoint."""
        if trainer.is_global_zero and self.file.exists():
            self._write(row for row in self._rows() if row["step"] <= trainer.global_step)

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Generate on every process, since a sharded model needs them all; the first one writes.

        Raises:
            BadRecord: a record that cannot be used, where the run skips none.
        """
        data = module.data
        if data.validation is None:
            return

        # The same first records at each validation, so that answers can be compared.
        count = self.count
        if data.num_validation_records is not None:
            count = min(count, data.num_validation_records)

        rows = []
        for index in range(data.validation_offset, data.validation_offset + count):
            try:
                record = data.validation[index]
                if record.images:
                    rows.append(self._answer(module, record, trainer.global_step))
            except BadRecord as error:
                module.skip(error)

        if trainer.is_global_zero:
            # In place of those of an interrupted validation.
            others = [row for row in self._rows() if row["step"] != trainer.global_step]
            self._write([*others, *rows])

    def _answer(self, module: L.LightningModule, record: Record, step: int) -> dict[str, Any]:
        """Generate the answer to a record's first question."""
        inputs = {name: tensor.to(module.device) for name, tensor in module.encoder.prompt(record).items()}

        # Processes with a shard each go on until the longest of their answers is complete, since each step
        # needs all of them: with answers of different lengths they would wait for each other forever.
        is_sharded = module.profile.training.strategy == "fsdp"
        # An example may fill the context, which then has room for its answer alone.
        max_new_tokens = self.max_new_tokens
        context = context_length(module.model)
        if context is not None:
            max_new_tokens = min(max_new_tokens, context - inputs["input_ids"].shape[1])
        prediction = module.monkey.generate(inputs, max_new_tokens, synced_gpus=is_sharded)[0].text

        prompt, answer = record.turns[0]
        return {"step": step, "id": record.id, "prompt": prompt, "answer": answer, "prediction": prediction}

    def _rows(self) -> list[dict[str, Any]]:
        if not self.file.exists():
            return []
        return [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines()]

    def _write(self, rows: Iterable[dict[str, Any]]) -> None:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        with resources.atomic_write(self.file) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
