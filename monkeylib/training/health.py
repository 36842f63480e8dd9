"""Health of a training run: finite numbers, usable records, and where the time goes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.profilers import Profiler
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from monkeylib import resources
from monkeylib.data.records import BadRecord, Record
from monkeylib.training import strategies
from monkeylib.training.batches import ExampleEncoder, RecordDataset, TrainingData
from monkeylib.training.data_parallel import Shard

# So many bad records are skipped before their share counts: a few prove nothing.
FEWEST_BAD_RECORDS = 10

# Records of which at least one has to be usable before a run starts.
FIRST_RECORDS = 100

# Ids in a message; the file has all of them.
LISTED_IDS = 8


# --- weights


def require_finite(weights: Iterable[tuple[str, Tensor]], description: str) -> None:
    """Check that all weights are finite.

    Args:
        weights: names and weights; those that are not of floating point are left out.
        description: whose weights they are, for the message.

    Raises:
        ValueError: some are infinite or not a number.
    """
    names = not_finite(weights)
    if names:
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise ValueError(
            f"{description} has weights that are infinite or not a number ({names[0]}{others}): use another "
            "one"
        )


def not_finite(weights: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Return the names of weights that are infinite or not a number; of a sharded one this process's part."""
    names = []
    for name, weight in weights:
        values = weight.to_local() if isinstance(weight, DTensor) else weight
        if not values.is_floating_point() or values.numel() == 0:
            continue
        # Smallest and largest value need no copy, and either is nan where any value is.
        extremes = torch.stack(torch.aminmax(values.detach()))
        if not torch.isfinite(extremes).all():
            names.append(name)
    return names


def require_trainable(model: nn.Module) -> None:
    """Check that some weights train.

    Raises:
        ValueError: all are frozen.
    """
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ValueError(
            "nothing would be trained: all components of the profile are frozen (training.components), or "
            "train by a LoRA that the model does not have (lora.mode)"
        )


# --- records


def require_usable_records(data: TrainingData, encoder: ExampleEncoder) -> None:
    """Check that not all of the first records are bad, where bad ones are skipped.

    A folder of images that is not there is noticed so before the model is loaded.

    Raises:
        ValueError: all of the first records, of training or of validation, are bad.
    """
    parts = [("training", data.train, data.offset, data.num_records)]
    if data.validation is not None:
        parts.append(("validation", data.validation, data.validation_offset, data.num_validation_records))

    for name, dataset, first, count in parts:
        count = FIRST_RECORDS if count is None else min(count, FIRST_RECORDS)
        error = _first_error(dataset, encoder, range(first, first + count))
        if error is not None:
            raise ValueError(f"none of the first {count} {name} records can be used; the first one: {error}")


def _first_error(dataset: RecordDataset, encoder: ExampleEncoder, indices: Sequence[int]) -> BadRecord | None:
    """Return the error of the first record if all of them are bad."""
    first_error = None
    for index in indices:
        try:
            encoder.encode_images(encoder.encode(dataset[index]))
        except BadRecord as error:
            first_error = first_error or error
        else:
            return None
    return first_error


# --- time


class StepTimer(Profiler):
    """Seconds that training waits for data and that it computes, from the actions that Lightning reports."""

    actions = {"[_TrainingEpochLoop].train_dataloader_next": "data", "run_training_batch": "compute"}

    def __init__(self) -> None:
        super().__init__()
        self.seconds = dict.fromkeys(self.actions.values(), 0.0)
        self._starts: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        """Start to measure an action."""
        if action_name in self.actions:
            self._starts[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Add the time since the action's start."""
        if action_name in self._starts:
            seconds = time.perf_counter() - self._starts.pop(action_name)
            self.seconds[self.actions[action_name]] += seconds

    def pop_seconds(self) -> dict[str, float]:
        """Return the seconds so far, and start again from zero."""
        seconds, self.seconds = self.seconds, dict.fromkeys(self.seconds, 0.0)
        return seconds

    def describe(self) -> None:
        """Print nothing at the end."""


# --- the run


class Health(L.Callback):
    """Stop a run that learns nothing sensible, before the optimiser step, on all devices together.

    It stops where a loss or the gradient is not finite, and where more bad records are skipped than
    `max_bad_share`. Its checkpoints are those of before. A step whose records are all bad changes nothing: no
    weight, no moment of the optimiser. Each step logs `grad_norm`, the norm of the gradient
    before clipping; and `time/data` and `time/compute`, mean seconds of a step.

    Args:
        bad_batch: file for the records of a batch whose loss or gradient is not finite.
        max_bad_share: largest share of bad records among those consumed.
        timer: measures a step; it is the trainer's profiler.
    """

    def __init__(self, bad_batch: Path, max_bad_share: float, timer: StepTimer):
        self.bad_batch, self.max_bad_share, self.timer = bad_batch, max_bad_share, timer
        self.num_records = self.num_bad = 0.0
        self.gradient_norm = 0.0
        self._step_counts = [0.0, 0.0, 0.0]  # records, bad ones, examples
        self._timed_steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers of records and of bad ones so far."""
        return {"records": self.num_records, "bad": self.num_bad}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the numbers of records."""
        self.num_records, self.num_bad = state_dict["records"], state_dict["bad"]

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """Count the records of a micro-batch."""
        if batch_idx % module.accumulation_steps == 0:
            self._step_counts = [0.0, 0.0, 0.0]
        for index, name in enumerate(("num_records", "num_bad_records", "num_examples")):
            self._step_counts[index] += batch.get(name, 0)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at losses, gradient and records of the step, before the gradient is clipped.

        Raises:
            ValueError: loss or gradient are not finite, or too many records are bad.
        """
        gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        # A sharded norm is gathered from all devices.
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        losses = torch.stack(module.micro_batch_losses)

        # All devices decide alike, or one would wait for the others.
        is_finite = torch.isfinite(losses).all() & torch.isfinite(norm).to(losses.device)
        counts = torch.stack([~is_finite, *map(torch.tensor, self._step_counts)])
        num_failed, num_records, num_bad, num_examples = trainer.strategy.reduce(
            counts.to(module.device, torch.float32), reduce_op="sum"
        ).tolist()

        self.gradient_norm = float(norm)
        if num_failed:
            self._stop(trainer, module, losses, optimizer)

        self.num_records += num_records
        self.num_bad += num_bad
        if self.num_bad > max(FEWEST_BAD_RECORDS, self.max_bad_share * self.num_records):
            strategies.raise_together(
                ValueError(
                    f"{self.num_bad:.0f} of the first {self.num_records:.0f} records are bad, more than the "
                    f"share of {self.max_bad_share:g} that the profile allows (training.max_bad_share); "
                    "skipped.jsonl lists them: fix them, or allow more"
                )
            )

        # The optimiser passes over weights without a gradient. Of zeros it would make a step by its moments.
        if num_examples == 0:
            for weight in module.parameters():
                weight.grad = None

    def _stop(
        self, trainer: L.Trainer, module: L.LightningModule, losses: Tensor, optimizer: torch.optim.Optimizer
    ) -> None:
        """Save the records of the step, and raise the error that names them."""
        # [devices, micro-batches]
        all_losses = trainer.strategy.all_gather(losses).reshape(-1, len(losses)).cpu()
        rows = list(_batch_rows(module, trainer.global_step, all_losses))
        if trainer.is_global_zero:
            with resources.atomic_write(self.bad_batch) as temporary:
                lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
                temporary.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")

        loss = float(all_losses.mean())
        value = f"The loss is {loss:g}"
        if torch.isfinite(all_losses).all():
            value = f"The loss is {loss:.4g}, but the norm of its gradient {self.gradient_norm:g},"

        rates = sorted({group["lr"] for group in optimizer.param_groups})
        ids = [row["id"] for row in rows]
        more = f" and {len(ids) - LISTED_IDS} more" if len(ids) > LISTED_IDS else ""
        strategies.raise_together(
            ValueError(
                f"{value} in step {trainer.global_step + 1}, at a learning rate of "
                f"{' and '.join(f'{rate:.3g}' for rate in rates)}: the step was not taken, and the last "
                f"checkpoint stays. Its records ({', '.join(ids[:LISTED_IDS])}{more}) are in "
                f"{resources.display_path(self.bad_batch)}: fix them, or lower the learning rate"
            )
        )

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the gradient's norm and the seconds of a complete step."""
        if (batch_idx + 1) % module.accumulation_steps:
            return

        self._timed_steps += 1
        times = {f"time/{name}": value / self._timed_steps for name, value in self.timer.seconds.items()}
        module.log_dict({"grad_norm": self.gradient_norm} | times, batch_size=1)

        if trainer.global_step % trainer.log_every_n_steps == 0:
            self.timer.pop_seconds()
            self._timed_steps = 0

    def on_save_checkpoint(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Check that what is saved is finite: a checkpoint that isn't would replace one that is."""
        self._require_finite(trainer, module)

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Check that something was learned, and that it is finite, also where no step was left to take.

        Raises:
            ValueError: no record could be used, or the last step has made weights infinite.
        """
        self._require_finite(trainer, module)
        # Shares of records are added up, so they may differ from whole numbers by rounding.
        if self.num_records and round(self.num_records - self.num_bad, 3) <= 0:
            strategies.raise_together(
                ValueError(
                    f"none of the {self.num_records:.0f} records can be used, so nothing was learned; "
                    "skipped.jsonl has the reasons"
                )
            )

    def _require_finite(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        trained = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
        names = not_finite(trained)
        # With sharded weights one device may see what the others don't.
        if trainer.strategy.reduce_boolean_decision(bool(names), all=False):
            strategies.raise_together(
                ValueError(
                    f"step {trainer.global_step} has made weights infinite or not a number"
                    f"{f' ({names[0]})' if names else ''}, so it is not saved; the last checkpoint stays: "
                    "lower the learning rate"
                )
            )


def _batch_rows(module: L.LightningModule, step: int, losses: Tensor) -> Iterator[dict[str, Any]]:
    """Yield a row for each record of a step's batch, those of micro-batches with a loss that isn't finite
    first.

    Args:
        module: reads the batch again.
        step: the step, from 0.
        losses: `[devices, micro-batches]`.
    """
    batch = module.training_batches()[step]
    devices, accumulation = losses.shape
    rows = []

    for device in range(devices):
        micro_batches = Shard(device, devices, accumulation).micro_batches(batch)
        for number, examples in enumerate(micro_batches):
            is_finite = bool(torch.isfinite(losses[device, number]))
            position = {
                "step": step + 1,
                "device": device,
                "micro_batch": number,
                "loss_is_finite": is_finite,
            }
            rows += [position | _record_row(example.record) for example in examples]

    yield from sorted(rows, key=lambda row: row["loss_is_finite"])


def _record_row(record: Record) -> dict[str, Any]:
    # An image that lies in a table or a shard has no path; the location says where.
    images = [str(image) if isinstance(image, str | Path) else None for image in record.images]
    return {
        "id": record.id,
        "location": record.location,
        "turns": [list(turn) for turn in record.turns],
        "images": images,
    }
